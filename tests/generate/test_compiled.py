"""Compiled decoding: the same text, one graph for all steps, and a plain way on where there is no compiler."""

import functools
import warnings

import pytest
import torch

import minideepseek as mds
from minideepseek import UserError
from minideepseek.generate import plain
from minideepseek.layers import DSA, GQA, MLA, Indexer, MoE, SwiGLU, TopK
from minideepseek.model import ModelConfig, Transformer

MIXTURE = MoE(
    n_experts=8,
    n_shared=1,
    hidden=12,
    router=TopK(k=2, affinity="sigmoid", normalise=True, bias=True, scale=2.5),
)
LATENT = MLA(n_heads=3, d_latent=10, d_rope=4, d_nope=6, d_value=5, d_query_latent=9)
ATTENTION = {
    "V1": GQA(n_heads=4, n_kv_heads=2, head_dim=6),
    "V3": LATENT,
    "V3.2": DSA(mla=LATENT, indexer=Indexer(n_heads=2, head_dim=8, top_k=6, rounding=None)),
}


def small(generation: str, dtype: torch.dtype = torch.float32) -> Transformer:
    cfg = ModelConfig(
        d_model=16,
        n_layers=2,
        attention=ATTENTION[generation],
        ffn=SwiGLU(hidden=20) if generation == "V1" else (SwiGLU(hidden=20), MIXTURE),
        vocab_size=23,
        init_std=None,
    )
    return Transformer(cfg, seed=0).to(dtype).eval()


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test compiles for itself."""
    torch.compiler.reset()
    plain._compiled.cache_clear()


class Traced:
    """A compiler that only traces, and counts the graphs it is given: what a step does without waiting for C++."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs = 0
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=self, fullgraph=True))

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("generation", ATTENTION)
@pytest.mark.parametrize("rows", [1, 3])
def test_text_is_the_same(generation: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(generation)
    ids = torch.randint(0, 23, (rows, 5), generator=torch.Generator().manual_seed(rows))
    want = mds.generate(model, ids, max_new_tokens=20, temperature=0.0)
    compiler = Traced(monkeypatch)
    assert torch.equal(mds.generate(model, ids, max_new_tokens=20, temperature=0.0, compile=True), want)
    assert compiler.graphs == (2 if generation == "V3.2" else 1), (
        "V3.2 chooses only when there is enough to choose from"
    )


def test_prompts_of_different_lengths_and_drawn_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = small("V3"), [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    want = mds.generate(model, prompts, max_new_tokens=12, seed=3)
    Traced(monkeypatch)
    assert mds.generate(model, prompts, max_new_tokens=12, seed=3, compile=True) == want


def test_a_second_text_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, compiler = small("V3"), Traced(monkeypatch)
    for length in (5, 9):
        mds.generate(model, torch.ones(1, length, dtype=torch.int64), max_new_tokens=8, compile=True)
    assert compiler.graphs == 1


def test_bfloat16_steps_past_a_cut_are_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, compiler = small("V3", torch.bfloat16), Traced(monkeypatch)
    ids = torch.ones(2, 120, dtype=torch.int64)  # from 121 to 135 tokens: past 129, where a part begins
    mds.generate(model, ids, max_new_tokens=16, compile=True)
    assert compiler.graphs == 1


@pytest.mark.slow
def test_what_the_compiler_makes_computes_the_same() -> None:
    model, ids = small("V3"), torch.tensor([[1, 2, 3]])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = mds.generate(model, ids, max_new_tokens=8, temperature=0.0, compile=True)
    if any("not possible here" in str(warning.message) for warning in said):
        pytest.skip("no compiler on this machine")
    assert torch.equal(found, mds.generate(model, ids, max_new_tokens=8, temperature=0.0))


def test_a_compiler_that_fails_is_said_once_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, **settings: object) -> object:
        def compiled(*args: object) -> None:
            raise RuntimeError("no working C++ compiler\nand a page of details")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    model, ids = small("V1"), torch.tensor([[1, 2, 3]])
    with pytest.warns(RuntimeWarning, match="torch.compile is not possible here .*no working C") as said:
        found = mds.generate(model, ids, max_new_tokens=6, temperature=0.0, compile=True)
    assert len(said) == 1
    assert torch.equal(found, mds.generate(model, ids, max_new_tokens=6, temperature=0.0))


def test_what_cannot_be_compiled_is_refused_in_one_line() -> None:
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UserError, match="does not go with speculative") as error:
        mds.generate(small("V1"), ids, speculative=True, compile=True)
    assert "\n" not in str(error.value)
    model = Transformer(mds.generations["v4-mini"], seed=0)
    with pytest.raises(UserError, match="windows and blocks"):
        mds.generate(model, ids, max_new_tokens=2, compile=True)
