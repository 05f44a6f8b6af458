"""A normal distribution truncated to the interval (0, 1), from which AMC draws its actions."""

from statistics import NormalDist

import numpy as np

STANDARD = NormalDist()
# Actions are float32 and are stored scaled to [-1, 1], where a value nearer to a bound would be
# rounded to the bound.
MARGIN = 2.0**-22


def truncated_normal_quantile(probability: float, *, mean: float, sigma: float) -> float:
    r"""The value below which ``probability`` of the truncated normal distribution lies.

    .. math:: x = \mu + \sigma \Phi^{-1}(\Phi(\alpha) + p (\Phi(\beta) - \Phi(\alpha))),
        \quad \alpha = -\mu / \sigma, \quad \beta = (1 - \mu) / \sigma

    ``mu`` is ``mean``, in [0, 1], and ``p`` is ``probability``, in [0, 1]. The value is at least
    ``MARGIN`` away from 0 and from 1.

    Raises:
        ValueError: ``mean`` or ``probability`` is outside [0, 1], or ``sigma`` is not positive.
    """
    for name, value in (("mean", mean), ("probability", probability)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be in [0, 1]")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; it must be positive")
    below = STANDARD.cdf(-mean / sigma)
    inside = STANDARD.cdf((1 - mean) / sigma) - below
    # The inverse is infinite at 0 and 1, which floats reach when sigma is small.
    reached = min(max(below + probability * inside, 2.0**-1022), 1 - 2.0**-53)
    value = mean + sigma * STANDARD.inv_cdf(reached)
    return min(max(value, MARGIN), 1 - MARGIN)


def sample_truncated_normal(rng: np.random.Generator, *, mean: float, sigma: float) -> float:
    """Draw from the normal distribution around ``mean``, truncated to (0, 1).

    Raises:
        ValueError: ``mean`` is outside [0, 1], or ``sigma`` is not positive.
    """
    return truncated_normal_quantile(float(rng.random()), mean=mean, sigma=sigma)
