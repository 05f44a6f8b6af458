"""Criteria by name, and where users' own come in."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amc_env.criteria.by_maps import (
    AuraInformation,
    ChannelIndependence,
    ClassInformation,
    FirstOrderTaylor,
    KernelInformation,
    MapRank,
)
from amc_env.criteria.by_reconstruction import ReconstructionLoss
from amc_env.criteria.by_weights import Capacity, GeometricMedian, Magnitude, NormScale, Random
from amc_env.criteria.criterion import Criterion
from amc_env.names import make_by_name, with_installed

# Packages add their own under this group of entry points; the package is not touched.
ENTRY_POINTS = "amc_env.criteria"

CRITERIA: Mapping[str, Callable[..., Criterion]] = {
    "l1": partial(Magnitude, p=1),
    "l2": partial(Magnitude, p=2),
    "mi_aura": AuraInformation,
    "class_mi": ClassInformation,
    "hrel": KernelInformation,
    "capacity": Capacity,
    "fpgm": GeometricMedian,
    "hrank": MapRank,
    "chip": ChannelIndependence,
    "taylor": FirstOrderTaylor,
    "bn_scale": NormScale,
    "reconstruction": ReconstructionLoss,
    "random": Random,
}


def make_criterion(
    criterion: str | Criterion, options: Mapping[str, Any] | None = None
) -> Criterion:
    """The criterion of a name with its options; a criterion made already is given back.

    Names are those of ``CRITERIA`` and of installed entry points in the group
    ``amc_env.criteria``.

    Raises:
        ValueError: There is no such name or option, or an option's value is refused.
    """
    if isinstance(criterion, Criterion):
        if options:
            raise ValueError(f"options {dict(options)} come with a criterion made already")
        return criterion
    makers = with_installed("criterion", CRITERIA, ENTRY_POINTS)
    return make_by_name("criterion", criterion, makers, options)
