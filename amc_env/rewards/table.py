"""Rewards by name, and where users' own come in."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from amc_env.rewards import functions
from amc_env.rewards.context import Reward
from amc_env.rewards.functions import SpatialEntropy, UnivariateEntropy, WeightedSum

# Packages add their own under this group of entry points; the package is not touched.
ENTRY_POINTS = "amc_env.rewards"

REWARDS: Mapping[str, Callable[..., Reward]] = {
    "accuracy": lambda: functions.accuracy,
    "neg_error_log_flops": lambda: functions.neg_error_log_flops,
    "spatial_entropy": SpatialEntropy,
    "spatial_entropy_max": partial(SpatialEntropy, is_maximised=True),
    "univariate_entropy": UnivariateEntropy,
    "loss": lambda: functions.loss,
    "kl_to_original": lambda: functions.kl_to_original,
    "random": lambda: functions.random,
}


def make_reward(
    reward: str | Reward | Mapping[str, float], options: Mapping[str, Any] | None = None
) -> Reward:
    """The reward of a name with its options; weights by name make a sum; a function is given back.

    Names are those of ``REWARDS`` and of installed entry points in the group ``amc_env.rewards``,
    which are called with the options and give the reward.

    Raises:
        ValueError: There is no such name or option, or an option's value is refused.
    """
    if isinstance(reward, Mapping):
        return WeightedSum(parts={name: make_reward(name) for name in reward}, weights=reward)
    if not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"reward is {reward!r}; give a name, weights by name, or a function")
        return reward
    makers = {**REWARDS, **{e.name: e.load for e in entry_points(group=ENTRY_POINTS)}}
    if reward not in makers:
        near = difflib.get_close_matches(reward, makers, n=1, cutoff=0.0)
        raise ValueError(
            f"reward {reward!r} does not exist; the nearest is {near[0]!r}, choose one of "
            f"{', '.join(makers)}"
        )
    maker = REWARDS.get(reward) or makers[reward]()
    try:
        made: Reward = maker(**(options or {}))
    except TypeError as error:
        raise ValueError(f"reward {reward!r} cannot take {dict(options or {})}: {error}") from error
    return made
