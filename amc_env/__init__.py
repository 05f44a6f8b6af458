"""AutoML for Model Compression as a Gymnasium environment.

Importing the package registers ``AMC/ChannelPruning-v0``.
"""

import gymnasium

from amc_env.data import PruningData, Split
from amc_env.env import Budget, ChannelPruningEnv, EnvSettings
from amc_env.policy import Policy
from amc_env.repair import RepairSettings
from amc_env.structure import (
    ChannelGraph,
    ChannelGroup,
    Cost,
    FrozenGroup,
    LayerCost,
    Member,
    Share,
)

__all__ = [
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "ChannelPruningEnv",
    "Cost",
    "EnvSettings",
    "FrozenGroup",
    "LayerCost",
    "Member",
    "Policy",
    "PruningData",
    "RepairSettings",
    "Share",
    "Split",
]

gymnasium.register(
    id="AMC/ChannelPruning-v0",
    entry_point="amc_env.env.environment:ChannelPruningEnv",
    order_enforce=False,
)
