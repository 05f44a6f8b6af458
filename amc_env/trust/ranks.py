"""Rank correlation of two lists of numbers, and how uncertain it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]
Array = NDArray[np.float64]


def rank_correlation(first: Numbers, second: Numbers) -> float:
    r"""Spearman's rank correlation, from -1 (opposite orders) to 1 (the same order).

    .. math:: \rho = \frac{\sum_i (r_i - \bar r)(s_i - \bar s)}
                          {\sqrt{\sum_i (r_i - \bar r)^2 \sum_i (s_i - \bar s)^2}}

    ``r`` and ``s`` are the ranks of the numbers; equal numbers share the mean of their ranks. NaN
    where all numbers of a list are equal, or one of them is NaN. Spearman, "The Proof and
    Measurement of Association between Two Things", 1904.
    """
    return float(_correlations(first, second, draws=np.ones((1, len(first))))[0])


def bootstrap_interval(
    first: Numbers, second: Numbers, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The interval that holds the rank correlation of all pairs with a probability of ``level``.

    The pairs that were seen are drawn again with replacement, as many as there are, and the
    interval lies between the quantiles of the correlations of many such draws: the percentile
    bootstrap of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Draws
    without a correlation, because they repeat equal numbers alone, are left out. NaN where the
    numbers themselves have no correlation.
    """
    if np.isnan(rank_correlation(first, second)):
        return float("nan"), float("nan")
    count = len(first)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    tail = (1.0 - level) / 2.0
    ends = [tail, 1.0 - tail]
    low, high = np.nanquantile(_correlations(first, second, draws=draws.astype(float)), ends)
    return float(low), float(high)


def _correlations(first: Numbers, second: Numbers, *, draws: Array) -> Array:
    """Rank correlations of samples of the pairs: each row says how often it has every pair."""
    pair = np.asarray([first, second], dtype=np.float64)
    if np.isnan(pair).any():
        return np.full(len(draws), np.nan)
    r, s = (_centred_ranks(numbers, draws) for numbers in pair)
    lengths = np.sqrt((draws * r**2).sum(axis=1) * (draws * s**2).sum(axis=1))
    products = (draws * r * s).sum(axis=1)
    # Ranks that are all equal are all 0 here, but for rounding.
    is_ordered = lengths > 1e-9
    return np.where(is_ordered, products / np.where(is_ordered, lengths, 1.0), np.nan)


def _centred_ranks(numbers: Array, draws: Array) -> Array:
    """The rank of every number in each sample, less the sample's mean rank."""
    # A number's rank is how many of the sample it exceeds and half of those that it equals, up to
    # a constant. As a product of matrices that is found for all samples at once, without sorting.
    exceeded = (numbers[:, None] < numbers) + 0.5 * (numbers[:, None] == numbers)
    ranks: Array = draws @ exceeded
    mean: Array = (draws * ranks).sum(axis=1, keepdims=True) / draws.sum(axis=1, keepdims=True)
    return ranks - mean
