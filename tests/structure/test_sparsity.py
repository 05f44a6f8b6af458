from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_env.structure.sparsity import kept_count


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


def test_impossible_sparsities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1\.5"):
        kept_count(4, sparsity=1.5)
    with pytest.raises(ValueError, match="channels is 0"):
        kept_count(0, sparsity=0.5)
