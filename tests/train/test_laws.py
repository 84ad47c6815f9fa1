"""V1's published laws against the report's own numbers, and against how its models were really trained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.accounting import n1, n2, non_embedding_flops
from minideepseek.train.laws import RUNS, TABLE_3, TABLE_4, PowerLaw, batch_opt, d_opt, lr_opt, m_opt


@pytest.mark.parametrize(
    ("compute", "lr", "batch"),
    [(1e17, 2.34e-3, 106e3), (2e19, 1.21e-3, 601e3), (1e20, 9.86e-4, 1.02e6), (3e20, 8.59e-4, 1.46e6)],
)
def test_learning_rate_and_batch_at_the_budgets_of_the_report(compute: float, lr: float, batch: float) -> None:
    assert lr_opt(compute) == pytest.approx(lr, rel=5e-3)
    assert batch_opt(compute) == pytest.approx(batch, rel=5e-3)


@pytest.mark.parametrize(
    ("compute", "scale", "tokens"), [(1e17, 0.140e9, 0.712e9), (1e20, 5.25e9, 19.0e9), (3e20, 9.34e9, 32.1e9)]
)
def test_model_and_data_at_the_budgets_of_the_report(compute: float, scale: float, tokens: float) -> None:
    assert m_opt(compute) == pytest.approx(scale, rel=5e-3)
    assert d_opt(compute) == pytest.approx(tokens, rel=5e-3)


@settings(deadline=None, max_examples=20)
@given(st.floats(1e9, 1e26))
def test_model_times_data_is_the_compute(compute: float) -> None:
    assert m_opt(compute) * d_opt(compute) == pytest.approx(compute, rel=5e-4)


def test_v1_was_trained_close_to_its_own_laws() -> None:
    for run in RUNS.values():
        assert run.lr == pytest.approx(lr_opt(run.compute), rel=0.03)
        assert run.batch_tokens == pytest.approx(batch_opt(run.compute), rel=0.09)


def test_the_batch_law_is_in_tokens_not_sequences() -> None:
    for run in RUNS.values():
        assert run.batch < batch_opt(run.compute) / 1000


def test_the_7b_has_four_times_its_data_and_the_67b_about_its_share() -> None:
    small, large = RUNS["v1-7b"], RUNS["v1-67b"]
    assert small.scale == pytest.approx(42.28e9, rel=1e-3)
    assert large.scale == pytest.approx(497.3e9, rel=1e-3)
    assert small.tokens / d_opt(small.compute) == pytest.approx(4.25, rel=0.01)
    assert large.tokens / d_opt(large.compute) == pytest.approx(1.32, rel=0.01)


def test_table_3_comes_out_of_the_shapes() -> None:
    printed = [  # N1, N2, M, 6N1/M, 6N2/M as the report prints them
        (25.2e6, 77.6e6, 352e6, 0.43, 1.32),
        (84.9e6, 164e6, 963e6, 0.53, 1.02),
        (302e6, 407e6, 3.02e9, 0.60, 0.81),
        (1.21e9, 1.42e9, 9.66e9, 0.75, 0.88),
        (6.44e9, 6.86e9, 45.1e9, 0.85, 0.91),
        (12.6e9, 13.1e9, 85.6e9, 0.88, 0.92),
        (64.4e9, 65.3e9, 419e9, 0.92, 0.94),
    ]
    for (n_layers, d_model), (non_embedding, complete, scale, low, high) in zip(TABLE_3, printed, strict=True):
        ours = n1(d_model, n_layers), n2(d_model, n_layers), non_embedding_flops(d_model, n_layers)
        assert ours == pytest.approx((non_embedding, complete, scale), rel=4e-3)
        assert 6 * ours[1] / ours[2] == pytest.approx(high, abs=0.005)
        slip = d_model == 4096  # 6·N1/M is 6/7 = 0.857 there; the report cut it off where it rounded the others
        assert 6 * ours[0] / ours[2] == pytest.approx(low, abs=0.01 if slip else 0.005)
        assert (round(6 * ours[0] / ours[2], 2) == low) is not slip


def test_exponents_of_table_4_share_out_the_compute() -> None:
    for row in TABLE_4:
        assert row.model + row.data == pytest.approx(1)


def test_a_power_law_takes_numbers_and_arrays() -> None:
    law = PowerLaw(coefficient=2.0, exponent=0.5)
    assert law(9.0) == 6.0
    np.testing.assert_array_equal(law(np.array([1.0, 4.0])), [2.0, 4.0])
    assert law.growth(100) == 10


@pytest.mark.parametrize("wrong", [{"coefficient": 0.0, "exponent": 1.0}, {"coefficient": 1.0, "exponent": np.nan}])
def test_a_power_law_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PowerLaw(**wrong)
