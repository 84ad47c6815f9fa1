"""The modules that look ahead, against transformers' MtpModel: what we train, they draft with."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel

import minideepseek as mds
from minideepseek.layers import MTP

CFG = replace(mds.generations["v3-mini"], vocab_size=64, mtp=MTP(depth=2))


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Our model and theirs, of the same weights."""
    # Theirs looks for the modules beyond layer 61, the released model's last, whatever the number of layers.
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.[45]\..*"])
    us = mds.Transformer(CFG, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in us.parameters():
            if parameter.ndim == 1:  # gains all at one would hide which norm stands where
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    us.save(tmp_path)
    return us, AutoModelForCausalLM.from_pretrained(tmp_path).eval()


def tokens(length):
    return torch.randint(2, 64, (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_every_module_of_the_chain_has_their_outputs(both):
    us, them = both
    ahead, ids = MtpModel.from_pretrained(them).eval(), tokens(20)
    ours, theirs = us.hidden(ids, us.context(ids)), them(ids, output_hidden_states=True).hidden_states[-1]
    for k in (1, 2):
        n = 20 - k
        ours = us.mtp[k - 1](ours[:, :n], us.embed(ids[:, k:]), us.context(ids[:, :n]))
        theirs = ahead.forward_layer(k - 1, theirs[:, :n], torch.arange(n)[None], None, input_ids=ids[:, k:])
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_their_speculative_decoding_runs_on_our_checkpoint(both):
    us, them = both
    ids = tokens(7)
    drafted = them.generate(ids, max_new_tokens=16, do_sample=False, use_mtp=True, eos_token_id=None, pad_token_id=0)
    assert torch.equal(drafted, mds.generate(us, ids, max_new_tokens=16, temperature=0.0))
