"""Scores of filters from a layer's weights alone."""

from typing import Literal

import torch
from torch import Tensor

from amc_env.information.filters import independence

# Weiszfeld's iteration converges linearly; it stops at rounding long before this many steps.
_MOST_STEPS = 10_000


def norm_score(weight: Tensor, *, p: int = 2, axis: Literal["out", "in"] = "out") -> Tensor:
    """L1 or L2 norm of each filter, (outputs,), or of each input channel's slice, (inputs,).

    The second is how the original AMC reads magnitude: by what consumes a channel.
    """
    rows = weight if axis == "out" else weight.transpose(0, 1)
    norms: Tensor = rows.flatten(1).norm(p=p, dim=1)
    return norms


def fpgm(weight: Tensor) -> Tensor:
    """Sum of distances to all other filters, (outputs,): low near the geometric median (FPGM)."""
    return independence(weight)


def fpgm_distance(weight: Tensor) -> Tensor:
    """Distance of each filter to the layer's geometric median, (outputs,)."""
    filters = weight.double().flatten(1)
    distances: Tensor = (filters - _geometric_median(filters)).norm(dim=1)
    return distances.to(weight.dtype)


def _geometric_median(points: Tensor) -> Tensor:
    """The point of least summed distance, by Weiszfeld's iteration as mended by Vardi and Zhang."""
    median = points.mean(0)
    for _ in range(_MOST_STEPS):
        distances = (points - median).norm(dim=1)
        at_point = distances < 1e-15
        weights = torch.where(at_point, 0.0, 1.0 / torch.where(at_point, 1.0, distances))
        if not weights.any():
            return median
        nearer = weights @ points / weights.sum()
        if at_point.any():
            # At a data point the pull of the others must exceed that point's own multiplicity.
            pull = float((weights @ (points - median)).norm())
            share = float(at_point.sum()) / pull if pull > 0 else 1.0
            if share >= 1.0:
                return median
            nearer = (1 - share) * nearer + share * median
        moved = float((nearer - median).norm())
        median = nearer
        if moved < 1e-13:
            break
    return median
