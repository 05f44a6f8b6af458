"""Repairs a pruned network: new weights for the layers that read pruned channels.

The package is also a function: ``amc_env.repair(small, original, samples)`` repairs a network that
another tool has cut; see ``amc_env.repair.foreign.repair``.
"""

import sys
from types import ModuleType

from torch import nn

from amc_env.batches import Batch
from amc_env.repair.foreign import repair as _repair
from amc_env.repair.plan import Keep, Reconstruction
from amc_env.repair.pruner import Pruned, Pruner
from amc_env.repair.settings import Repair, RepairSettings

__all__ = ["Keep", "Pruned", "Pruner", "Reconstruction", "Repair", "RepairSettings"]


class CallablePackage(ModuleType):
    """The type of the package ``amc_env.repair``."""

    def __call__(
        self,
        small: nn.Module,
        original: nn.Module,
        samples: Batch,
        *,
        settings: RepairSettings | None = None,
    ) -> nn.Module:
        return _repair(small, original, samples, settings=settings)


# Importing a submodule sets the package as the attribute ``repair`` of ``amc_env``, whatever stood
# there before; so a function of that name lives only as long as nobody imports one.
sys.modules[__name__].__class__ = CallablePackage
