"""How sure a difference between two networks is, of which the same images are classified."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]

_RESAMPLES = 2000
_ENDS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of accuracies with its 95 % interval, all in shares of the images.

    Attributes:
        mean: The mean over seeds.
        low: The lower end of the interval.
        high: The upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval says that there is a difference."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"


def paired_difference(own: Booleans, other: Booleans, *, seed: int = 0) -> Difference:
    r"""The difference of the accuracies of two rows of networks, and its interval.

    .. math:: d = \frac{1}{S N} \sum_{s=1}^{S} \sum_{i=1}^{N} (a_{si} - b_{si})

    ``a`` and ``b`` say whether the networks of seed ``s`` classify image ``i`` correctly. Seeds and
    images are drawn again with replacement, and the interval lies between the quantiles of the
    differences of many such draws: the percentile bootstrap of Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, chapter 13. Few seeds make it too narrow, and one seed
    says nothing about others.

    Args:
        own: (seeds, images).
        other: The same seeds and images of the other row.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    differences = own.astype(np.int8) - other.astype(np.int8)
    seeds = generator.integers(len(differences), size=(_RESAMPLES, len(differences)))
    # Draws of the same seeds in another order are the same.
    drawn, counts = np.unique(np.sort(seeds, axis=1), axis=0, return_counts=True)
    means = np.concatenate(
        [
            _resampled_means(differences[chosen].mean(axis=0), int(count), generator)
            for chosen, count in zip(drawn, counts, strict=True)
        ]
    )
    low, high = np.quantile(means, _ENDS)
    return Difference(mean=float(differences.mean()), low=float(low), high=float(high))


def _resampled_means(
    values: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Means of values that are drawn again with replacement."""
    # Few different values occur, so how often each is drawn is one number for each of them.
    different, counts = np.unique(values, return_counts=True)
    draws = generator.multinomial(len(values), counts / len(values), size=resamples)
    means: NDArray[np.float64] = draws @ different / len(values)
    return means
