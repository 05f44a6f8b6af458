"""Rewards: functions of the compact network at the end of an episode."""

from amc_env.rewards.context import Reward, RewardContext
from amc_env.rewards.functions import (
    RandomReward,
    SpatialEntropy,
    UnivariateEntropy,
    WeightedSum,
)
from amc_env.rewards.layers import NetworkLayers
from amc_env.rewards.table import REWARD, REWARDS, make_reward, rewards_by_name

__all__ = [
    "REWARD",
    "REWARDS",
    "NetworkLayers",
    "RandomReward",
    "Reward",
    "RewardContext",
    "SpatialEntropy",
    "UnivariateEntropy",
    "WeightedSum",
    "make_reward",
    "rewards_by_name",
]
