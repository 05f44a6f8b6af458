from fractions import Fraction
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_env.selection import best_channels, kept_count, ranking


@pytest.mark.parametrize(
    ("channels", "sparsity", "count"),
    [
        (10, 0.7, 3),
        (10, 0.3, 7),
        (3, 0.5, 2),
        (10, 1.0, 1),
        (10, 0.0, 10),
        (100, 0.29, 71),
        (512, 0.719, 144),
    ],
)
def test_kept_count_rounds_up_and_keeps_one(channels: int, sparsity: float, count: int) -> None:
    assert kept_count(channels, sparsity=sparsity) == count


@settings(max_examples=50, deadline=None, derandomize=True)
@given(channels=st.integers(1, 4096), sparsity=st.integers(0, 1000))
def test_kept_count_is_that_of_exact_arithmetic(channels: int, sparsity: int) -> None:
    exact = max(1, ceil((1 - Fraction(sparsity, 1000)) * channels))
    assert kept_count(channels, sparsity=sparsity / 1000) == exact


def test_of_equal_scores_the_lower_index_stays() -> None:
    scores = torch.tensor([2.0, 5.0, 2.0, 5.0, 2.0])
    assert ranking(scores).tolist() == [1, 3, 0, 2, 4]
    assert best_channels(scores, count=3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"the score of channel 1 is {bad}"):
        ranking(torch.tensor([1.0, bad]))


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1\.5"):
        kept_count(4, sparsity=1.5)
    with pytest.raises(ValueError, match="channels is 0"):
        kept_count(0, sparsity=0.5)
    with pytest.raises(ValueError, match="give a number from 1 to 2"):
        best_channels(torch.ones(2), count=3)
    with pytest.raises(ValueError, match="one number for every channel"):
        ranking(torch.ones(2, 2))
