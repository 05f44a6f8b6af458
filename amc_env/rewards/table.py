"""The names of the rewards, and how users' own rewards join them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amc_env.names import Kind
from amc_env.rewards import functions
from amc_env.rewards.context import Reward
from amc_env.rewards.functions import RandomReward, SpatialEntropy, UnivariateEntropy, WeightedSum


# The options of ``weighted`` are the names of rewards, which nobody can list in a signature.
def _weighted(**weights: float) -> WeightedSum:
    return WeightedSum(parts={name: make_reward(name) for name in weights}, weights=weights)


REWARDS: Mapping[str, Callable[..., Reward]] = {
    "accuracy": lambda: functions.accuracy,
    "neg_error_log_flops": lambda: functions.neg_error_log_flops,
    "spatial_entropy": SpatialEntropy,
    "spatial_entropy_max": partial(SpatialEntropy, is_maximised=True),
    "univariate_entropy": UnivariateEntropy,
    "loss": lambda: functions.loss,
    "kl_to_original": lambda: functions.kl_to_original,
    "random": RandomReward,
    "weighted": _weighted,
}

REWARD: Kind[Reward] = Kind(
    title="reward",
    entry_points="amc_env.rewards",
    makers=REWARDS,
    is_made=lambda thing: callable(thing) and not isinstance(thing, type),
)


def rewards_by_name() -> dict[str, Reward]:
    """Every reward of this package that needs no options, by its name."""
    return {name: make() for name, make in REWARDS.items() if name != "weighted"}


def make_reward(
    reward: str | Reward | Mapping[str, float], options: Mapping[str, Any] | None = None
) -> Reward:
    """The reward that a name or a path stands for, with its options; a function is returned.

    Weights by the names of rewards make the reward ``weighted``, which is their weighted sum.

    Raises:
        ValueError: The name or an option does not exist, or an option has a bad value.
    """
    if isinstance(reward, Mapping):
        return REWARD.make("weighted", reward)
    return REWARD.make(reward, options)
