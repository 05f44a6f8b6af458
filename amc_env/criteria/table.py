"""The names of the criteria, and how users' own criteria join them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amc_env.criteria.by_maps import (
    AuraInformation,
    ChannelIndependence,
    ClassInformation,
    FirstOrderTaylor,
    KernelInformation,
    MapEntropy,
    MapHistogramEntropy,
    MapRank,
)
from amc_env.criteria.by_reconstruction import ReconstructionLoss
from amc_env.criteria.by_weights import Capacity, GeometricMedian, Magnitude, NormScale, Random
from amc_env.criteria.criterion import Criterion
from amc_env.names import Kind

CRITERIA: Mapping[str, Callable[..., Criterion]] = {
    "l1": partial(Magnitude, p=1),
    "l2": partial(Magnitude, p=2),
    "mi_aura": AuraInformation,
    "class_mi": ClassInformation,
    "hrel": KernelInformation,
    "capacity": Capacity,
    "fpgm": GeometricMedian,
    "hrank": MapRank,
    "spatial_entropy": MapEntropy,
    "univariate_entropy": MapHistogramEntropy,
    "chip": ChannelIndependence,
    "taylor": FirstOrderTaylor,
    "bn_scale": NormScale,
    "reconstruction": ReconstructionLoss,
    "random": Random,
}


CRITERION: Kind[Criterion] = Kind(
    title="criterion",
    entry_points="amc_env.criteria",
    makers=CRITERIA,
    is_made=lambda thing: isinstance(thing, Criterion),
)


def make_criterion(
    criterion: str | Criterion, options: Mapping[str, Any] | None = None
) -> Criterion:
    """The criterion that a name or a path stands for, with its options; an object is returned.

    Raises:
        ValueError: The name or an option does not exist, or an option has a bad value.
    """
    return CRITERION.make(criterion, options)
