"""Samples: splits of them, and data sets by name."""

from amc_env.data.splits import PruningData, Samples, Split

__all__ = ["PruningData", "Samples", "Split"]
