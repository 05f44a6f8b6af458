from math import asin, isnan, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from amc_env.trust import (
    bootstrap_interval,
    partial_bootstrap_interval,
    partial_rank_correlation,
    rank_correlation,
)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Ranks differ by 1 in four places: 1 - 6 * 4 / (5 * 24).
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
        ([0, 7, 7, 9], [1, 2, 3, 4], 0.9**0.5),
    ],
)
def test_correlations_by_hand(first: list[float], second: list[float], expected: float) -> None:
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(second, first) == pytest.approx(expected)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_scipy_finds_the_same(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    mine = rank_correlation(first, second)
    if len({*first}) == 1 or len({*second}) == 1:
        # scipy warns of it.
        assert isnan(mine)
    else:
        assert mine == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, float("nan"), 3])]
)
def test_what_has_no_order_has_no_correlation(first: list[float], second: list[float]) -> None:
    assert isnan(rank_correlation(first, second))
    assert all(isnan(end) for end in bootstrap_interval(first, second, resamples=10))


def test_the_interval_covers_the_correlation_of_the_population() -> None:
    # Pearson, "On further methods of determining correlation", 1907: of a normal distribution with
    # the correlation r, Spearman's is 6 / pi * asin(r / 2).
    generator, r, trials = np.random.default_rng(0), 0.7, 100
    truth = 6 / pi * asin(r / 2)
    covering, widths = 0, []
    for trial in range(trials):
        x, noise = generator.standard_normal((2, 40))
        y = r * x + (1 - r**2) ** 0.5 * noise
        low, high = bootstrap_interval(x, y, resamples=200, seed=trial)
        covering += low <= truth <= high
        widths.append(high - low)
    assert 0.88 <= covering / trials <= 0.99
    # Not by being so wide that it says nothing.
    assert np.median(widths) < 0.5


def test_more_pairs_and_a_lower_level_make_a_narrower_interval() -> None:
    x = np.arange(60.0)
    y = x + 25 * np.random.default_rng(1).standard_normal(60)

    def width(count: int, level: float) -> float:
        low, high = bootstrap_interval(x[:count:1], y[:count], level=level, seed=3)
        return high - low

    assert width(60, 0.95) < width(15, 0.95)
    assert width(60, 0.5) < width(60, 0.95)


def test_the_interval_depends_on_the_seed_alone() -> None:
    x, y = np.random.default_rng(2).standard_normal((2, 20))
    assert bootstrap_interval(x, y, seed=4) == bootstrap_interval(x, y, seed=4)
    assert bootstrap_interval(x, y, seed=4) != bootstrap_interval(x, y, seed=5)
    assert bootstrap_interval(x, x) == pytest.approx((1.0, 1.0))


def test_a_partial_correlation_is_that_of_what_the_third_leaves_of_ranks() -> None:
    generator = np.random.default_rng(0)
    z = generator.standard_normal(60)
    x, y = (z + 0.7 * generator.standard_normal(60) for _ in range(2))
    ranks = [column.argsort().argsort().astype(float) for column in (x, y, z)]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert partial_rank_correlation(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1])
    assert abs(partial_rank_correlation(x, y, z)) < 0.3 < np.corrcoef(x, y)[0, 1]
    low, high = partial_bootstrap_interval(x, y, z)
    assert low < partial_rank_correlation(x, y, z) < high
    assert partial_bootstrap_interval(x, y, z) == (low, high)


def test_nothing_is_left_where_the_third_has_the_order_of_one() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]
    assert isnan(partial_rank_correlation(x, y, x))
    assert all(isnan(end) for end in partial_bootstrap_interval(x, y, x))
