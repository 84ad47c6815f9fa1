"""From the command line to transformers: what ``minideepseek train`` writes is a model of theirs."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import MtpModel

import minideepseek as mds
from minideepseek.cli import main

SHORT = ("--steps", "12", "--batch-size", "4", "--seq-len", "32", "--eval-every", "0", "--threads", "1")


def train(name, folder):
    """The folder of a mini, all of its layers, trained for a moment on a text of the user's own."""
    text = folder / "notes.txt"
    text.write_text("\n\n".join(f"Note {i}: the {i}th day was {'sunny' if i % 3 else 'wet'}." for i in range(400)))
    out = folder / name
    main(["train", name, "--out", str(out), "--data", f"file:{text}", "--model.vocab-size", "300", *SHORT])
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("v3-mini", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained_v4(tmp_path_factory):
    return train("v4-mini", tmp_path_factory.mktemp("run"))


def prompts() -> torch.Tensor:
    return torch.randint(0, 300, (2, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_transformers_continues_what_the_command_trained(trained):
    us, them = mds.load(trained), AutoModelForCausalLM.from_pretrained(trained).eval()
    assert max(block.ffn.router.bias.abs().max() for block in us.blocks[1:]) > 0  # corrected in training, and kept
    ours, theirs = us(prompts()), them(prompts()).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    expected = them.generate(prompts(), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    for speculative in (False, True):
        text = mds.generate(us, prompts(), max_new_tokens=24, temperature=0.0, speculative=speculative)
        assert torch.equal(text, expected)


@torch.no_grad()
def test_its_tokenizer_and_its_module_are_theirs_too(trained, monkeypatch):
    us, them = mds.load(trained), AutoModelForCausalLM.from_pretrained(trained).eval()
    text = "Note 7: the 7th day was sunny."
    assert AutoTokenizer.from_pretrained(trained).encode(text, add_special_tokens=False) == mds.data.Tokenizer.load(
        trained
    ).encode(text)
    # Theirs ignores what lies beyond layer 61, the released model's last; ours has four.
    monkeypatch.setattr(type(them), "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.4\..*"])
    ahead, ids = MtpModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained).eval()).eval(), prompts()
    read = them(ids, output_hidden_states=True).hidden_states[-1]
    ours = us.mtp[0](us.hidden(ids, us.context(ids))[:, :-1], us.embed(ids[:, 1:]), us.context(ids[:, :-1]))
    theirs = ahead.forward_layer(0, read[:, :-1], torch.arange(6)[None], None, input_ids=ids[:, 1:])
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.no_grad()
def test_transformers_continues_what_the_command_trained_of_v4(trained_v4):
    us, them = mds.load(trained_v4), AutoModelForCausalLM.from_pretrained(trained_v4).eval()
    first, *rest = [block.ffn.router for block in us.blocks]
    assert max(router.bias.abs().max() for router in rest) > 0  # corrected in training, and kept
    assert not torch.equal(first.table, mds.Transformer(us.cfg).blocks[0].ffn.router.table)  # as frequent as here
    ids = torch.randint(0, 300, (2, 70), generator=torch.Generator().manual_seed(0))  # longer than the window
    ours, theirs = us(ids), them(ids, use_cache=False).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    expected = them.generate(prompts(), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    for speculative in (False, True):
        text = mds.generate(us, prompts(), max_new_tokens=40, temperature=0.0, speculative=speculative)
        assert torch.equal(text, expected)
