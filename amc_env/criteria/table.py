"""Criteria by name, and where users' own come in."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
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
    makers = {**CRITERIA, **{e.name: e.load for e in entry_points(group=ENTRY_POINTS)}}
    if criterion not in makers:
        near = difflib.get_close_matches(str(criterion), makers, n=1, cutoff=0.0)
        raise ValueError(
            f"criterion {criterion!r} does not exist; the nearest is {near[0]!r}, "
            f"choose one of {', '.join(makers)}"
        )
    maker = CRITERIA.get(criterion) or makers[criterion]()
    try:
        made: Criterion = maker(**(options or {}))
    except TypeError as error:
        raise ValueError(
            f"criterion {criterion!r} cannot take {dict(options or {})}: {error}"
        ) from error
    return made
