"""Which channels of a model must be kept or cut together, and copies of the model without some."""

from amc_env.structure.graph import ChannelGraph
from amc_env.structure.records import (
    ChannelGroup,
    Cost,
    FrozenGroup,
    LayerCost,
    LayerUse,
    Member,
    Share,
)

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "FrozenGroup",
    "LayerCost",
    "LayerUse",
    "Member",
    "Share",
]
