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


def partial_rank_correlation(first: Numbers, second: Numbers, given: Numbers) -> float:
    r"""Spearman's rank correlation of two lists with a third held fixed.

    .. math:: \frac{\rho_{xy} - \rho_{xz} \rho_{yz}}
                   {\sqrt{(1 - \rho_{xz}^2)(1 - \rho_{yz}^2)}}

    ``x`` and ``y`` are the lists, ``z`` the third. NaN where one of the rank correlations is, or
    the third list has the order of one of the others.
    """
    whole = np.ones((1, len(first)))
    return float(_partial_correlations(first, second, given, draws=whole)[0])


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
    draws = _draws(len(first), resamples, seed)
    return _interval(_correlations(first, second, draws=draws), level)


def partial_bootstrap_interval(
    first: Numbers,
    second: Numbers,
    given: Numbers,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """As :func:`bootstrap_interval`, of the partial rank correlation with a third list fixed."""
    if np.isnan(partial_rank_correlation(first, second, given)):
        return float("nan"), float("nan")
    draws = _draws(len(first), resamples, seed)
    return _interval(_partial_correlations(first, second, given, draws=draws), level)


def _draws(count: int, resamples: int, seed: int) -> Array:
    """How often each of so many pairs is in every one of the samples, one row for each."""
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return draws.astype(np.float64)


def _interval(values: Array, level: float) -> tuple[float, float]:
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _partial_correlations(
    first: Numbers, second: Numbers, given: Numbers, *, draws: Array
) -> Array:
    xy, xz, yz = (
        _correlations(a, b, draws=draws)
        for a, b in ((first, second), (first, given), (second, given))
    )
    left = (1.0 - xz**2) * (1.0 - yz**2)
    # Equal orders leave 0 here, but for rounding.
    has_rest = left > 1e-9
    return np.where(has_rest, (xy - xz * yz) / np.sqrt(np.where(has_rest, left, 1.0)), np.nan)


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
