"""Counts: equal to the modules' own tensors, and to the numbers that the papers print."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek as mds
from minideepseek import accounting
from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig, Transformer

V = 102_400
T = 1e12


@given(
    d_model=st.integers(1, 40),
    kv=st.integers(1, 4),
    group=st.integers(1, 4),
    half=st.integers(1, 8),
    hidden=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    vocab=st.integers(1, 100),
    uniform=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_parameters_are_those_of_the_module(
    d_model: int, kv: int, group: int, half: int, hidden: list[int], vocab: int, uniform: bool
) -> None:
    ffn = tuple(SwiGLU(hidden=width) for width in hidden)
    cfg = ModelConfig(
        d_model=d_model,
        n_layers=len(hidden),
        attention=GQA(n_heads=kv * group, n_kv_heads=kv, head_dim=2 * half),
        ffn=ffn[0] if uniform else ffn,
        vocab_size=vocab,
    )
    with torch.device("meta"):
        model = Transformer(cfg)
    assert mds.report(cfg).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", mds.generations)
def test_every_generation_counts_what_it_builds(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(mds.generations[name])
        cache = model.bfloat16().new_cache(2, 100)
    found = mds.report(mds.generations[name])
    assert found.parameters + found.mtp_parameters == sum(p.numel() for p in model.parameters())
    assert cache.nbytes == 2 * 2 * accounting.cache_elements(mds.generations[name], 100)


# DeepSeek LLM, arXiv 2401.02954, tables 1 and 2: "7B" and "67B".
@pytest.mark.parametrize(("name", "total"), [("v1-7b", 6_910_365_696), ("v1-67b", 67_425_001_472)])
def test_v1_has_as_many_parameters_as_published(name: str, total: int) -> None:
    assert mds.report(mds.generations[name]).parameters == total


@pytest.mark.parametrize(
    ("name", "numbers", "kilobytes", "gib"), [("v1-7b", 245_760, 491.5, 60.0), ("v1-67b", 194_560, 389.1, 47.5)]
)
def test_v1_caches_as_much_as_its_shape_says(name: str, numbers: int, kilobytes: float, gib: float) -> None:
    found = mds.report(mds.generations[name])
    assert found.cache_elements_per_token == numbers
    assert round(found.cache_bytes_per_token / 1000, 1) == kilobytes
    assert found.cache_bytes_per_token * 128 * 1024 / 2**30 == gib
    assert ("cache for 128K tokens (bf16)", f"{gib:.2f} GiB") in found.rows()


def test_grouping_saves_the_67b_seven_eighths_of_its_cache() -> None:
    cfg = mds.generations["v1-67b"]
    as_mha = replace(cfg, attention=GQA(n_heads=64, n_kv_heads=64, head_dim=128))
    assert mds.report(as_mha).cache_elements_per_token == 1_556_480 == 8 * mds.report(cfg).cache_elements_per_token


# DeepSeek LLM, table 3: layers, width, N1, N2, M, 6·N1/M, 6·N2/M. The paper prints 0.85 for the fifth 6·N1/M, which
# is 0.857 by its own formula.
TABLE_3 = [
    (8, 512, 25.2e6, 77.6e6, 352e6, 0.43, 1.32),
    (12, 768, 84.9e6, 164e6, 963e6, 0.53, 1.02),
    (24, 1024, 302e6, 407e6, 3.02e9, 0.60, 0.81),
    (24, 2048, 1.21e9, 1.42e9, 9.66e9, 0.75, 0.88),
    (32, 4096, 6.44e9, 6.86e9, 45.1e9, 0.86, 0.91),
    (40, 5120, 12.6e9, 13.1e9, 85.6e9, 0.88, 0.92),
    (80, 8192, 64.4e9, 65.3e9, 419e9, 0.92, 0.94),
]


@pytest.mark.parametrize(("layers", "width", "n1", "n2", "m", "first", "second"), TABLE_3)
def test_table_of_model_scales_is_reproduced(
    layers: int, width: int, n1: float, n2: float, m: float, first: float, second: float
) -> None:
    found = [
        accounting.n1(width, layers),
        accounting.n2(width, layers),
        accounting.non_embedding_flops(width, layers),
    ]
    assert [float(f"{value:.2e}") for value in found] == [float(f"{value:.2e}") for value in (n1, n2, m)]
    assert round(6 * found[0] / found[2], 2) == first
    assert round(6 * found[1] / found[2], 2) == second


# Section 3.1: batch and learning rate of the 7B and 67B follow from C = M·D with D = 2e12 tokens.
@pytest.mark.parametrize(("name", "m", "compute"), [("v1-7b", 42.28e9, 8.46e22), ("v1-67b", 497.3e9, 9.95e23)])
def test_model_scale_of_the_published_models(name: str, m: float, compute: float) -> None:
    found = mds.report(mds.generations[name]).flops_per_token["M"]
    assert found == pytest.approx(m, rel=2e-4)
    assert found * 2e12 == pytest.approx(compute, rel=1e-3)


# DeepSeekMoE, arXiv 2401.06066, tables 2 and 3: "FLOPs per 4K tokens" of the dense models, all counted as if they had
# full multi-head attention and an inner width of 8/3 of their own.
@pytest.mark.parametrize(
    ("layers", "width", "vocab", "flops"),
    [(30, 4096, V, 183.5 * T), (32, 4096, 32_000, 187.9 * T), (95, 8192, V, 2057.5 * T)],
)
def test_flops_for_four_thousand_tokens_are_those_printed(layers: int, width: int, vocab: int, flops: float) -> None:
    per_token = accounting.non_embedding_flops(width, layers, 4096) + 6 * vocab * width
    assert 4096 * per_token == pytest.approx(flops, rel=5e-4)


def test_counting_the_67b_by_its_true_shape_is_cheaper() -> None:
    """1793 T for 4096 tokens and not 2057 T: the printed figure ignores that its keys and values are grouped."""
    assert 4096 * mds.report(mds.generations["v1-67b"], 4096).flops_per_token["full"] == pytest.approx(
        1793 * T, rel=5e-4
    )


def test_training_flops_are_six_for_each_parameter_and_twelve_for_each_score() -> None:
    cfg = ModelConfig(
        d_model=10, n_layers=3, attention=GQA(n_heads=4, n_kv_heads=2, head_dim=6), ffn=SwiGLU(hidden=7), vocab_size=11
    )
    matrices = 3 * (10 * 24 + 2 * 10 * 12 + 24 * 10 + 3 * 10 * 7) + 10 * 11
    scores = 3 * 4 * (6 + 6)  # layers, heads, products with keys and sums of values
    assert accounting.training_flops_per_token(cfg, 100) == 6 * matrices + 6 * scores * 100
    assert accounting.training_flops_per_token(cfg, 100, causal=True) == 6 * matrices + 6 * scores * 50


def test_ideal_shape_costs_m_and_the_head() -> None:
    """With MHA and an inner width of 8/3 the exact count is V1's M plus the head's six flops for each weight."""
    cfg = ModelConfig(
        d_model=96, n_layers=5, attention=GQA(n_heads=4, n_kv_heads=4, head_dim=24), ffn=SwiGLU(hidden=256)
    )
    flops = mds.report(cfg, 512).flops_per_token
    assert flops["full"] == flops["M"] + 6 * 96 * cfg.vocab_size


def test_three_conventions_of_activated_parameters() -> None:
    found = mds.report(mds.generations["v1-7b"])
    table = 4096 * V
    assert found.activated == {
        "everything": found.parameters,
        "without embedding": found.parameters - table,
        "without embedding and head": found.parameters - 2 * table,
    }


def test_report_prints_a_table() -> None:
    found = mds.report(mds.generations["v1-7b"])
    lines = str(found).splitlines()
    assert lines[0].split() == ["parameters", "6,910,365,696"]
    assert len({len(line) for line in lines}) == 1
    assert any(line.split()[-1] == "4.228e+10" and " M " in line for line in lines)
    html = found._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") == len(lines)
    assert "6,910,365,696" in html


def test_report_takes_another_length() -> None:
    cfg = mds.generations["v1-mini"]
    assert mds.report(cfg).seq_len == cfg.max_seq_len
    assert mds.report(cfg, 64).flops_per_token["M"] < mds.report(cfg).flops_per_token["M"]
    with pytest.raises(ValueError, match="seq_len=0 must be positive"):
        mds.report(cfg, 0)


# --- the papers' tables -----------------------------------------------------------------------------------------------


def as_printed(found: float, printed: float) -> bool:
    """Whether ``found``, rounded to the last digit of ``printed``, is that number."""
    digits = len(f"{printed!r}".partition(".")[2].rstrip("0"))
    return round(found, digits) == printed


# Where the source itself is off, and why; everything else must agree to the last digit that is printed.
OFF = {
    ("moe-16b", "compute, against V1-7B"): 40.6,  # printed 40.5; 74.4/183.5 is 40.54
    ("moe-145b", "training on 4096 tokens"): 585.5,
    ("v2", "training on one token of 4096"): 155,
    ("v2-lite", "activated"): 2.5,  # printed 2.4, cut off and not rounded
    ("v3", "multi-token prediction, on top"): 11.6,  # printed 11.5: without the projection
    ("v3", "activated there, with embedding and head"): 2.5,
    ("v3", "numbers in the released files"): 684,  # printed 685, from parts rounded up
}


@pytest.mark.parametrize("name", mds.generations)
def test_what_the_reports_claim_is_recomputed_to_the_printed_digit(name: str) -> None:
    for claim in accounting.claims(name):
        wanted = OFF.get((name, claim.what), claim.printed)
        assert as_printed(claim.found, wanted), claim
        assert claim.source


def test_every_published_model_has_claims_and_no_mini_has() -> None:
    assert {name for name in mds.generations if accounting.claims(name)} == {
        name for name in mds.generations if not name.endswith("-mini")
    }


def test_activated_parameters_need_the_convention_named() -> None:
    for row in accounting.activated_table():
        counts = [row.everything, row.without_embedding, row.without_embedding_and_head]
        assert counts == sorted(counts, reverse=True)
        nearest = min(counts, key=lambda count: abs(count - row.printed))
        # Of V4-Flash two conventions round to the 13 that is printed; of V4-Pro only the one that V2 and V3 use, too.
        assert nearest == getattr(row, row.convention) or row.model == "v4-flash"


def test_v4_counts_activated_parameters_as_v2_and_v3_do() -> None:
    rows = {row.model: row for row in accounting.activated_table()}
    for name in ("v4-flash", "v4-pro"):
        assert round(rows[name].without_embedding) == rows[name].printed
    assert {round(rows["v4-pro"].everything), round(rows["v4-pro"].without_embedding_and_head)} == {50, 48}


# DeepSeek-V4, arXiv 2606.19348: "284B", "1.6T"; with the module that looks ahead, 290.9 and 1598.8.
@pytest.mark.parametrize(
    ("name", "total", "ahead"),
    [("v4-flash", 284_332_230_231, 6_610_048_635), ("v4-pro", 1_572_997_179_491, 25_840_145_595)],
)
def test_v4_has_as_many_parameters_as_published(name: str, total: int, ahead: int) -> None:
    found = mds.report(mds.generations[name])
    assert (found.parameters, found.mtp_parameters, found.stored_parameters) == (total, ahead, total + ahead)


def test_v4_keeps_a_tenth_of_v32s_bytes_at_a_million_tokens() -> None:
    rows = {row.model: row for row in accounting.efficiency_table()}
    assert rows["v3.2"].length == 2**20
    assert [round(rows[name].cache_share, 1) for name in ("v3.2", "v4-pro", "v4-flash")] == [100.0, 10.5, 7.3]
    # by hand, a token in the long run: an entry of 584 bytes and a key of 68 every 4 tokens, an entry every 128
    for name, sparse, heavy in (("v4-pro", 30, 31), ("v4-flash", 21, 20)):
        token = sparse * (584 + 68) / 4 + heavy * 584 / 128
        window = 128 * 584 * mds.generations[name].n_layers
        assert rows[name].cache_gb == pytest.approx((token * 2**20 + window) / 1e9)
    assert rows["v3.2"].cache_gb == pytest.approx(61 * (656 + 132) * 2**20 / 1e9)


def test_v4_computes_a_quarter_and_a_tenth_of_v32s_token() -> None:
    rows = {row.model: row for row in accounting.efficiency_table()}
    assert [round(rows[name].flops_share, 1) for name in ("v4-pro", "v4-flash")] == [26.5, 10.0]
    index, core = 61 * 2 * 64 * 128 * 2**20 / 1e9, 61 * 2 * 128 * (576 + 512) * 2048 / 1e9
    assert (rows["v3.2"].index, rows["v3.2"].attention) == pytest.approx((index, core))
    pro = 61 * 4 * 128 * 512 * 128 + 30 * 4 * 128 * 512 * 1024 + 31 * 4 * 128 * 512 * 8192
    assert rows["v4-pro"].attention == pytest.approx(pro / 1e9)
    assert rows["v4-pro"].index == pytest.approx(30 * 2 * 64 * 128 * 2**18 / 1e9)
    for row in rows.values():
        index_weight = 1 if row.model == "v3.2" else 0.5
        assert row.equivalent == pytest.approx(row.linear + index_weight * row.index + 2 * row.attention)


def test_most_of_v32s_token_at_a_million_is_the_index_and_a_short_context_has_no_such_bill() -> None:
    far, near = (accounting.efficiency_table(length)[0] for length in (2**20, 4096))
    assert far.index > 0.85 * far.equivalent
    assert near.index < 0.1 * near.equivalent
    with pytest.raises(ValueError, match="length=0"):
        accounting.efficiency_table(0)
    with pytest.raises(ValueError, match="how MLA is served"):
        accounting.served_bytes(mds.generations["v3"], 10)
    with pytest.raises(ValueError, match="what MLA costs"):
        accounting.token_flops(mds.generations["v3"], 10)


# Numbers cached for a token, by hand from the published shapes: layers x (latent + rotary), or 2 x heads x 128.
@pytest.mark.parametrize(
    ("model", "attention", "elements"),
    [
        ("v2", "MLA", 60 * (512 + 64)),
        ("v2-lite", "MLA", 27 * (512 + 64)),
        ("v3", "MLA", 61 * (512 + 64)),
        ("moe-16b", "MHA", 28 * 2 * 16 * 128),
        ("v2", "if it were MHA", 60 * 2 * 128 * 128),
        ("v2", "if it were MQA", 60 * 2 * 128),
        ("Qwen2.5-72B", "GQA, 8 groups", 163_840),
        ("LLaMA-3.1-405B", "GQA, 8 groups", 258_048),
    ],
)
def test_cache_table(model: str, attention: str, elements: int) -> None:
    rows = [row for row in accounting.cache_table() if (row.model, row.attention) == (model, attention)]
    assert [row.elements for row in rows] == [elements]
    assert rows[0].kilobytes == 2 * elements / 1000
    assert rows[0].gib_128k == 2 * elements * 2**17 / 2**30


def test_latent_attention_caches_as_much_as_two_and_a_quarter_groups() -> None:
    for name in ("v2", "v2-lite", "v3"):
        assert accounting.equivalent_groups(mds.generations[name].layers[0][0]) == 2.25


def test_saving_of_cache_is_elements_times_bits() -> None:
    found = accounting.cache_saving(194_560, 34_560, new_bits=6)
    assert (round(found.elements, 3), found.bits, round(found.together, 3)) == (0.822, 0.625, 0.933)
    assert 1 - found.together == pytest.approx((1 - found.elements) * (1 - found.bits))
    assert accounting.cache_saving(10, 10) == accounting.CacheSaving(elements=0, bits=0, together=0)


def test_flops_tables_are_those_printed() -> None:
    for row in accounting.flops_table():  # to the printed digit, or 0.2 % where the paper's shape is our inference
        assert as_printed(row.tflops, row.printed) or row.tflops == pytest.approx(row.printed, rel=2e-3), row


def test_cost_is_hours_times_price() -> None:
    total = accounting.cost_table()[-1]
    assert (total.phase, total.gpu_hours, total.dollars) == ("total", 2_788_000, 5_576_000)
    assert accounting.cost_table(3.0)[-1].dollars == 1.5 * total.dollars


def test_tables_make_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    for table in (accounting.activated_table, accounting.cache_table, accounting.flops_table, accounting.cost_table):
        assert len(pandas.DataFrame(table())) == len(table())


def test_prediction_further_ahead_comes_on_top() -> None:
    found = mds.report(mds.generations["v3"])
    assert (found.parameters, found.mtp_parameters) == (671_026_404_352, 11_610_067_968)
    assert found.stored_parameters == found.parameters + found.mtp_parameters + 2 * 129_280 * 7168
    assert "multi-token prediction, on top" in str(found)
    assert "multi-token" not in str(mds.report(mds.generations["v2"]))
