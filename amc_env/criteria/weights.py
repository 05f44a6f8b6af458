"""Scores of filters from the weights of a layer; the highest are kept longest."""

from typing import Literal, get_args

import torch
from torch import Tensor

from amc_env.information.filters import independence

Axis = Literal["out", "in"]
# Weiszfeld's iteration converges linearly, except near a data point, which is tested first.
_MOST_STEPS = 10_000
_ENOUGH = 1e-13


def norm_score(weight: Tensor, *, p: int = 2, axis: Axis = "out") -> Tensor:
    r"""L1 or L2 norm of each filter, (outputs,), or of each input channel's slice, (inputs,).

    .. math:: \left(\sum_{ikl} |w_{oikl}|^p\right)^{1/p}

    ``w`` is ``weight``, (outputs, inputs, kh, kw) or (outputs, inputs). With ``axis="in"`` the sum
    is over the outputs instead of the inputs: the code of the AMC paper ranks a channel by the
    weights that consume it. Musat and Andonie, "Entropy Minimization", 2023, section 4, rank by
    ``p`` 2.

    Raises:
        ValueError: ``weight`` has another shape, or ``p`` or the axis is unknown.
    """
    if p not in (1, 2):
        raise ValueError(f"p is {p}; give 1 or 2")
    if axis not in get_args(Axis):
        raise ValueError(f"axis {axis!r} does not exist; choose out or in")
    rows = _check_weight(weight)
    rows = rows if axis == "out" else rows.transpose(0, 1)
    norms: Tensor = rows.double().flatten(1).norm(p=p, dim=1)
    return norms.to(weight.dtype)


def fpgm(weight: Tensor) -> Tensor:
    r"""Sum of distances to all other filters, (outputs,): low near the geometric median (FPGM).

    .. math:: \sum_c |F_i - F_c|_2

    ``F`` are the flattened filters. Tang et al., "Information Capacity and Independence", 2023,
    equation 7, with all filters as neighbours.
    """
    return independence(weight)


def fpgm_distance(weight: Tensor) -> Tensor:
    r"""Distance of each filter to the layer's geometric median, (outputs,).

    .. math:: |F_i - m|_2, \quad m = \arg\min_y \sum_c |F_c - y|_2

    The distance that ``fpgm`` approximates (He et al., "Filter Pruning via Geometric Median",
    2019), found by iteration.
    """
    filters = _check_weight(weight).double().flatten(1)
    distances: Tensor = (filters - geometric_median(filters)).norm(dim=1)
    return distances.to(weight.dtype)


def geometric_median(points: Tensor) -> Tensor:
    r"""The point of least summed distance to points (n, features), (features,), float64.

    .. math:: y \leftarrow \frac{\sum_i p_i / |p_i - y|}{\sum_i 1 / |p_i - y|}

    ``p`` are the points, ``y`` starts as their mean: Weiszfeld's iteration, whose step Vardi and
    Zhang shorten at a data point by that point's own multiplicity. A data point that is the median
    itself is recognised by the same test and returned at once. Where a whole segment is optimal, as
    between two points, the result is where the iteration from the mean ends.
    """
    points = points.double()
    own = _median_among(points)
    if own is not None:
        return own
    median = points.mean(0)
    size = float((points - median).norm(dim=1).mean())
    for _ in range(_MOST_STEPS):
        step = _step(points, median, size)
        median = median + step
        if step.norm() <= _ENOUGH * size:
            break
    return median


def _step(points: Tensor, median: Tensor, size: float) -> Tensor:
    apart = points - median
    distances = apart.norm(dim=1)
    away = distances > _ENOUGH * size
    pulls = torch.where(away, 1.0 / torch.where(away, distances, 1.0), 0.0)
    force = pulls @ apart
    held = (~away).sum() / force.norm().clamp_min(torch.finfo(force.dtype).tiny)
    step: Tensor = (1.0 - held).clamp_min(0.0) * force / pulls.sum()
    return step


def _median_among(points: Tensor) -> Tensor | None:
    """The data point that is the only geometric median, if one is."""
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    equal = distances == 0
    pulls = torch.where(equal, 0.0, 1.0 / torch.where(equal, 1.0, distances))
    force = (pulls @ points - pulls.sum(1, keepdim=True) * points).norm(dim=1)
    # Strictly weaker, and by more than rounding: two points pull each other by exactly 1.
    excess = force - equal.sum(1) * (1.0 - 1e-9)
    best = int(excess.argmin())
    return points[best] if excess[best] < 0 else None


def _check_weight(weight: Tensor) -> Tensor:
    if weight.dim() not in (2, 4) or weight.numel() == 0:
        raise ValueError(
            f"weight has the shape {tuple(weight.shape)}; give (outputs, inputs, kh, kw) or "
            "(outputs, inputs)"
        )
    return weight
