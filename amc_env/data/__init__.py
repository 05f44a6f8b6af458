"""Samples: in memory or read when needed, splits of them, and data sets by name."""

from amc_env.data.images import Images
from amc_env.data.sources import Source
from amc_env.data.splits import PruningData, Samples, Split
from amc_env.data.streams import Reading, Stream

__all__ = ["Images", "PruningData", "Reading", "Samples", "Source", "Split", "Stream"]
