"""V4 as it was released: experts in FP4, other matrices in FP8, scales in powers of two."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import minideepseek as mds
from minideepseek import UserError
from minideepseek.formats.fp8 import unpack_fp4
from minideepseek.ops.mxfp4 import LEVELS, as_fp4, fp4_scales
from minideepseek.ops.quantise import as_fp8, up_to_power_of_two

V4 = mds.generations["v4-mini"]
CFG = replace(
    V4,
    vocab_size=64,
    n_layers=2,
    attention=V4.attention[:2],
    ffn=tuple(replace(ffn, hidden=64) for _, ffn in V4.layers[:2]),
)
QUANTISATION = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}
# What the release keeps whole: embedding, head, norms, gates, streams, compressors, and the weights of index heads.
WHOLE = ("embed.", "head.", "norm", "gate.", "hc_", "compressor.", "weights_proj.", "ape", "attn_sink")


def pack(x: torch.Tensor) -> torch.Tensor:
    """Numbers of E2M1 (R, C) -> bytes (R, C/2), the first number of each pair in the lower half."""
    codes = (x.abs()[..., None] == torch.tensor(LEVELS)).int().argmax(-1) + 8 * torch.signbit(x).int()
    return (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8).view(torch.int8)


def release(folder) -> mds.Transformer:
    """Write a checkpoint in the released form; the model of the very numbers that it holds."""
    model = mds.Transformer(CFG, seed=0)
    model.save(str(folder))
    state, exact = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if any(part in name for part in WHOLE) or not name.endswith(".weight"):
            state[name] = exact[name] = tensor
            continue
        scale_name = name.removesuffix("weight") + "scale"
        if ".experts." in name and "shared" not in name:
            exact[name], scales = as_fp4(tensor), fp4_scales(tensor)
            state[name] = pack(exact[name] / scales.repeat_interleave(32, -1))
        else:
            exact[name] = as_fp8(tensor, block=(128, 128), power_of_two=True)
            rows, columns = (-(-n // 128) for n in tensor.shape)
            scales = torch.zeros(rows, columns)
            for i in range(rows):
                for j in range(columns):
                    peak = tensor[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128].abs().max()
                    scales[i, j] = up_to_power_of_two(peak / 448)
            spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
            numbers = exact[name] / spread[: tensor.shape[0], : tensor.shape[1]]
            state[name] = numbers.to(torch.float8_e4m3fn)
        state[scale_name] = scales.to(torch.float8_e8m0fnu)
    save_file(exact, folder / "model.safetensors")
    truth = mds.load(folder)
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": QUANTISATION}
    (folder / "config.json").write_text(json.dumps(config))
    return truth


def test_it_is_read_as_the_numbers_it_stands_for(tmp_path):
    truth = release(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert held["layers.1.ffn.experts.0.w1.weight"].dtype == torch.int8
    assert held["layers.1.ffn.experts.0.w1.scale"].shape == (64, 4)
    assert held["mtp.0.e_proj.weight"].dtype == torch.float8_e4m3fn
    found = mds.load(tmp_path, dtype=torch.float32)
    assert found.cfg == truth.cfg == CFG
    for name, tensor in truth.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_bytes_are_unpacked_as_transformers_does():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    packed = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.int8).view(4, 64)
    found = unpack_fp4(packed)
    assert torch.equal(found, Fp8Dequantize(None)._unpack_fp4(packed))
    assert torch.equal(pack(found), packed)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("layers.0.ffn.experts.3.w2.scale", None, "has no layers.0.ffn.experts.3.w2.weight_scale_inv"),
        ("layers.0.ffn.experts.3.w2.scale", torch.ones(3, 3), "no blocks of 1 x 32"),
        ("layers.1.attn.wq_b.scale", torch.ones(3, 3), "no blocks of 128 x 128"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(name, change, says, tmp_path):
    release(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[name]
    save_file(state | ({} if change is None else {name: change}), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=says):
        mds.load(tmp_path)
