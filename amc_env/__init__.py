"""AutoML for Model Compression as a Gymnasium environment."""

from amc_env.structure import (
    ChannelGraph,
    ChannelGroup,
    Cost,
    FrozenGroup,
    LayerCost,
    Member,
    Share,
)

__all__ = ["ChannelGraph", "ChannelGroup", "Cost", "FrozenGroup", "LayerCost", "Member", "Share"]
