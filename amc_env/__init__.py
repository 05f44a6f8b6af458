"""AutoML for Model Compression as a Gymnasium environment.

Importing the package registers ``AMC/ChannelPruning-v0``. Its public names are imported when they
are first used, so that a module which needs no network, such as ``amc_env.names``, can be imported
without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from amc_env.data import PruningData, Split
    from amc_env.env import Budget, ChannelPruningEnv, EnvSettings
    from amc_env.export.loading import load
    from amc_env.policy import Policy
    from amc_env.repair import CallablePackage, RepairSettings
    from amc_env.structure import (
        ChannelGraph,
        ChannelGroup,
        Cost,
        FrozenGroup,
        LayerCost,
        Member,
        Share,
    )

    repair: CallablePackage
else:
    _HOMES = {
        "amc_env.data": ("PruningData", "Split"),
        "amc_env.env": ("Budget", "ChannelPruningEnv", "EnvSettings"),
        "amc_env.export.loading": ("load",),
        "amc_env.policy": ("Policy",),
        "amc_env.repair": ("RepairSettings",),
        "amc_env.structure": (
            "ChannelGraph",
            "ChannelGroup",
            "Cost",
            "FrozenGroup",
            "LayerCost",
            "Member",
            "Share",
        ),
    }

    def __getattr__(name: str) -> object:
        if name == "repair":
            # The package itself, which can be called.
            return importlib.import_module("amc_env.repair")
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    "load",
    "repair",
]

gymnasium.register(
    id="AMC/ChannelPruning-v0",
    entry_point="amc_env.env.environment:ChannelPruningEnv",
    order_enforce=False,
)
