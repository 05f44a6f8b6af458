"""What an episode is paid: functions of the compact network."""

from amc_env.rewards.context import Reward, RewardContext
from amc_env.rewards.functions import SpatialEntropy, UnivariateEntropy, WeightedSum
from amc_env.rewards.table import REWARDS, make_reward

__all__ = [
    "REWARDS",
    "Reward",
    "RewardContext",
    "SpatialEntropy",
    "UnivariateEntropy",
    "WeightedSum",
    "make_reward",
]
