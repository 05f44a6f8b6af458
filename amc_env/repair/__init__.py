"""Repairs a pruned network: new weights for the layers that read pruned channels."""

from amc_env.repair.plan import Keep, Reconstruction
from amc_env.repair.pruner import Pruned, Pruner, RepairSettings

__all__ = ["Keep", "Pruned", "Pruner", "Reconstruction", "RepairSettings"]
