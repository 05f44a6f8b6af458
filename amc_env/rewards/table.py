"""Rewards by name, and where users' own come in."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amc_env.names import make_by_name, with_installed
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
    return make_by_name("reward", reward, with_installed("reward", REWARDS, ENTRY_POINTS), options)
