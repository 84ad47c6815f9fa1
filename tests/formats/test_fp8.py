"""Weights in blocks of FP8, as V3 was released, become the numbers they stand for."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import minideepseek as mds
from minideepseek import UserError
from minideepseek.layers import MLA, LossFree, MoE, SwiGLU, TopK

# Hardly a width that is a multiple of the block: every kind of edge is there.
CFG = replace(
    mds.generations["v3-mini"],
    d_model=40,
    n_layers=2,
    vocab_size=64,
    attention=MLA(n_heads=2, d_latent=36, d_rope=4, d_nope=10, d_value=9, d_query_latent=33),
    ffn=(
        SwiGLU(hidden=50),
        MoE(
            n_experts=3,
            n_shared=1,
            hidden=16,
            router=TopK(k=2, affinity="sigmoid", bias=True, normalise=True),
            loss_free=LossFree(),
        ),
    ),
)
BLOCK = (16, 32)
QUANTISATION = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": list(BLOCK),
}
WHOLE = ("embed_tokens", "head", "norm", "gate.weight", "gate.e_score", "eh_proj")


def blocks(shape: torch.Size) -> Any:
    """Row and column slices of every block, and its place among the scales."""
    for i, j in itertools.product(range(-(-shape[0] // BLOCK[0])), range(-(-shape[1] // BLOCK[1]))):
        yield i, j, slice(i * BLOCK[0], (i + 1) * BLOCK[0]), slice(j * BLOCK[1], (j + 1) * BLOCK[1])


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    scales = torch.zeros(-(-matrix.shape[0] // BLOCK[0]), -(-matrix.shape[1] // BLOCK[1]))
    numbers = torch.zeros_like(matrix, dtype=torch.float32)
    for i, j, rows, columns in blocks(matrix.shape):
        scales[i, j] = matrix[rows, columns].abs().max() / 448
        numbers[rows, columns] = matrix[rows, columns] / scales[i, j]
    return numbers.to(torch.float8_e4m3fn), scales


def product(numbers: Tensor, scales: Tensor) -> Tensor:
    found = torch.zeros(numbers.shape)
    for i, j, rows, columns in blocks(numbers.shape):
        found[rows, columns] = numbers[rows, columns].float() * scales[i, j]
    return found


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, Path, mds.Transformer]:
    """A checkpoint in FP8, the same one multiplied out in float32, and the model they come from."""
    model = mds.Transformer(CFG, seed=0).bfloat16()
    model.save(tmp_path / "fp8")
    model.save(tmp_path / "whole")
    quantised, whole = {}, {}
    for name, tensor in load_file(tmp_path / "fp8" / "model.safetensors").items():
        if any(part in name for part in WHOLE):
            quantised[name] = tensor
            whole[name] = tensor.float()
        else:
            quantised[name], quantised[f"{name}_scale_inv"] = quantise(tensor.float())
            whole[name] = product(quantised[name], quantised[f"{name}_scale_inv"])
    save_file(quantised, tmp_path / "fp8" / "model.safetensors", {"format": "pt"})
    save_file(whole, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    edit(tmp_path / "fp8", quantization_config=QUANTISATION)
    return tmp_path / "fp8", tmp_path / "whole", model


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def change(folder: Path, action: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    action(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_every_matrix_is_its_numbers_times_their_blocks_scales(released: Any) -> None:
    fp8, whole, _ = released
    found, expected = mds.load(fp8, dtype=torch.float32).state_dict(), mds.load(whole).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_eight_bits_keep_weights_within_a_sixteenth(released: Any) -> None:
    fp8, _, model = released
    found = mds.load(fp8, dtype=torch.float32)
    matrix, original = found.blocks[1].ffn.gate_up.detach(), model.blocks[1].ffn.gate_up.detach().float()
    assert 0 < (matrix - original).norm() < 0.05 * original.norm()
    assert ((matrix - original).abs() <= original.abs() / 16 + original.abs().max() / 448 / 2**9).all()


@pytest.mark.parametrize(("field", "dtype"), [({"dtype": "float32"}, torch.float32), ({"dtype": None}, torch.bfloat16)])
def test_they_take_the_type_that_the_config_names_and_corrections_stay_fine(
    released: Any, field: dict[str, Any], dtype: torch.dtype
) -> None:
    fp8, _, _ = released
    edit(fp8, **field)
    model = mds.load(fp8)
    assert model.blocks[0].attention.out.weight.dtype == dtype
    assert model.blocks[1].ffn.router.bias.dtype == torch.float32


def test_numbers_and_scales_may_lie_in_different_files_in_any_order(released: Any) -> None:
    fp8, whole, _ = released
    state = load_file(fp8 / "model.safetensors")
    (fp8 / "model.safetensors").unlink()
    parts = {
        "model-00001-of-00002.safetensors": {n: t for n, t in state.items() if n.endswith("_scale_inv")},
        "model-00002-of-00002.safetensors": {n: t for n, t in state.items() if not n.endswith("_scale_inv")},
    }
    for name, part in parts.items():
        save_file(part, fp8 / name, {"format": "pt"})
    where = {name: file for file, part in parts.items() for name in part}
    (fp8 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = mds.load(fp8, dtype=torch.float32)
    assert torch.equal(found.blocks[0].ffn.down.weight, mds.load(whole).blocks[0].ffn.down.weight)


def test_what_was_read_in_eight_bits_is_saved_whole(released: Any, tmp_path: Path) -> None:
    model = mds.load(released[0])
    model.save(tmp_path / "again")
    again = mds.load(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


MATRIX = "model.layers.0.self_attn.o_proj.weight"


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (lambda state: state.pop(MATRIX + "_scale_inv"), f"tensor {MATRIX} has no {MATRIX}_scale_inv"),
        (lambda state: state.pop(MATRIX), f"tensor {MATRIX}_scale_inv has no {MATRIX}"),
        (lambda state: state.update({MATRIX + "_scale_inv": torch.ones(9, 9)}), "these are no blocks of 16 x 32"),
        (lambda state: state.update({MATRIX: state[MATRIX].float()}), f"tensor {MATRIX}_scale_inv has no {MATRIX}"),
    ],
)
def test_halves_that_do_not_fit_are_named_in_one_line(released: Any, action: Any, says: str) -> None:
    change(released[0], action)
    with pytest.raises(UserError) as error:
        mds.load(released[0])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "how",
    [{"quant_method": "gptq"}, {**QUANTISATION, "fmt": "e5m2"}, {**QUANTISATION, "weight_block_size": 128}, "fp8"],
)
def test_other_ways_to_quantise_are_refused_in_one_line(released: Any, how: Any) -> None:
    edit(released[0], quantization_config=how)
    with pytest.raises(UserError, match=r"only FP8 \(e4m3\) in blocks is supported") as error:
        mds.load(released[0])
    assert "\n" not in str(error.value)


def test_eight_bits_that_nobody_announced_are_refused(released: Any) -> None:
    edit(released[0], quantization_config=None)
    with pytest.raises(UserError, match=r"float8_e4m3fn|has no place"):
        mds.load(released[0])


# --- the copies that lie beyond the last layer ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"])
def test_copies_of_embedding_and_head_may_be_left_out_but_must_not_differ(released: Any, name: str) -> None:
    fp8, _, model = released
    change(fp8, lambda state: state.pop(name))
    assert torch.equal(mds.load(fp8).head.weight, model.head.weight)
    change(fp8, lambda state: state.update({name: model.head.weight.detach().clone() + 1}))
    with pytest.raises(UserError, match=f"tensor {name} differs from that of the model itself"):
        mds.load(fp8)
