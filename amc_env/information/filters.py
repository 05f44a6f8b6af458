r"""Information capacity and independence of filters, from weights alone.

Capacity is high where a filter's kernels are spread unevenly; independence where a filter is far
from the others of its layer. Both are from Tang, Hu and Shi, "Filter Pruning based on Information
Capacity and Independence", 2023. The paper leaves choices open, for which the golden vectors define
what holds here: a kernel or filter is never its own neighbour, both terms are min-max scaled within
the layer before they are weighed, and the weight of a linear layer,
(outputs, inputs), has kernels of 1 x 1.
"""

from math import log, log2
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["euclidean", "manhattan", "chebyshev", "cosine"]
_NORMS = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": float("inf")}
# Distances between kernels that are held at once, 8 bytes each.
_DISTANCES_AT_ONCE = 2**23


def filter_entropy(
    weight: Tensor, *, nearest: int | None = None, normalize: bool = False
) -> Tensor:
    r"""Entropy in bits of each filter's kernels, (outputs,), from 0 to log2 inputs.

    .. math:: H = -\sum_q p_q \log_2 p_q, \quad p_q = \frac{\exp s_q}{\sum_i \exp s_i}, \quad
              s_q = \sum_c |w^q - w^c|_2

    ``w`` are the kernels of a filter. Tang et al., "Information Capacity and Independence", 2023,
    equations 2 to 5. Chosen here: the sum is over all other kernels, or over the ``nearest`` M of
    them.

    Args:
        weight: (outputs, inputs, kh, kw), or (outputs, inputs) of a linear layer.
        nearest: Number of nearest other kernels that count; all if None or above their number.
        normalize: Divide by log2 inputs, for a range of 0 to 1.

    Raises:
        ValueError: ``weight`` has another shape or ``nearest`` is below 0.
    """
    return _filter_entropy(weight, nearest, normalize=normalize).to(weight.dtype)


def capacity(weight: Tensor, *, nearest: int | None = None, normalize: bool = False) -> Tensor:
    """1 - ``filter_entropy``, (outputs,); higher means keep (equation 6 of the paper)."""
    return (1.0 - _filter_entropy(weight, nearest, normalize=normalize)).to(weight.dtype)


def independence(
    weight: Tensor, *, nearest: int | None = None, metric: Metric = "euclidean"
) -> Tensor:
    r"""Sum of each filter's distances to the other filters, (outputs,); higher means keep.

    .. math:: I_i = \sum_c |F_i - F_c|

    ``F`` are the filters, flattened. Tang et al., "Information Capacity and Independence", 2023,
    equation 7, whose sum is over the nearest M. Chosen here: all others unless ``nearest`` gives
    their number; a zero filter is at cosine distance 1 from any other and 0 from another zero
    filter.

    Raises:
        ValueError: ``weight`` has no 2 or 4 dimensions, or the metric or ``nearest`` is wrong.
    """
    return _independence(weight, nearest, metric).to(weight.dtype)


def importance(
    weight: Tensor,
    *,
    sigma: float = 0.8,
    nearest: tuple[int | None, int | None] = (None, None),
    metric: Metric = "euclidean",
    scaled: bool = True,
) -> Tensor:
    r"""Capacity and independence together, (outputs,); higher means keep.

    .. math:: O = \sigma \cdot IM_{cap} + (1 - \sigma) \cdot IM_{ind}

    Tang et al., "Information Capacity and Independence", 2023, equation 8, which adds the raw terms
    (``scaled=False``). Independence is then far greater than capacity and decides alone. Chosen
    here: each is min-max scaled within the layer first, to 0 where all are equal.

    Args:
        weight: (outputs, inputs, kh, kw), or (outputs, inputs).
        sigma: Weight of capacity, from 0 to 1.
        nearest: Numbers of neighbours that count, among kernels and among filters; all if None.
        metric: Distance between filters.
        scaled: Min-max scale both terms first.

    Raises:
        ValueError: As ``filter_entropy`` and ``independence``, or ``sigma`` is out of range.
    """
    if not 0.0 <= sigma <= 1.0:
        raise ValueError(f"sigma is {sigma}; give a number from 0 to 1")
    first = 1.0 - _filter_entropy(weight, nearest[0])
    second = _independence(weight, nearest[1], metric)
    if scaled:
        first, second = _min_max(first), _min_max(second)
    return (sigma * first + (1.0 - sigma) * second).to(weight.dtype)


def _filter_entropy(weight: Tensor, nearest: int | None, *, normalize: bool = False) -> Tensor:
    kernels = _kernels(weight).flatten(2)
    inputs = kernels.shape[1]
    together = max(1, _DISTANCES_AT_ONCE // inputs**2)
    sums = [_sums(_distances(part, "euclidean"), nearest) for part in kernels.split(together)]
    log_share = torch.cat(sums).log_softmax(-1)
    bits = -(log_share.exp() * log_share).sum(-1).div_(log(2.0))
    greatest = log2(inputs) if normalize and inputs > 1 else 1.0
    return bits.clamp_min_(0.0) / greatest


def _independence(weight: Tensor, nearest: int | None, metric: Metric) -> Tensor:
    return _sums(_distances(_kernels(weight).flatten(1), metric), nearest)


def _kernels(weight: Tensor) -> Tensor:
    if weight.dim() not in (2, 4) or weight.numel() == 0:
        raise ValueError(
            f"weight has the shape {tuple(weight.shape)}; give (outputs, inputs, kh, kw) or "
            "(outputs, inputs)"
        )
    return weight.double() if weight.dim() == 4 else weight.double()[:, :, None, None]


def _distances(rows: Tensor, metric: Metric) -> Tensor:
    """Distances (..., n, n) between rows (..., n, features)."""
    if metric in _NORMS:
        # Differences, not products: equal rows are at distance 0 exactly.
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(rows, rows, p=_NORMS[metric], compute_mode=mode)
    if metric != "cosine":
        raise ValueError(
            f"metric {metric!r} does not exist; choose one of {', '.join(_NORMS)}, cosine"
        )
    norms = rows.norm(dim=-1, keepdim=True)
    directions = rows / torch.where(norms > 0, norms, 1.0)
    cosine = (directions @ directions.mT).clamp_(-1.0, 1.0)
    both_zero = (norms == 0) & (norms == 0).mT
    return torch.where(both_zero, 0.0, 1.0 - cosine)


def _sums(distances: Tensor, nearest: int | None) -> Tensor:
    """Sum of each row's distances to the nearest others; sorted only where some are left out."""
    others = distances.shape[-1] - 1
    if nearest is not None and nearest < 0:
        raise ValueError(f"nearest is {nearest}; give 0 or more, or None for all")
    if nearest is None or nearest >= others:
        distances.diagonal(dim1=-2, dim2=-1).zero_()
        return distances.sum(-1)
    distances.diagonal(dim1=-2, dim2=-1).fill_(float("inf"))
    return distances.topk(nearest, dim=-1, largest=False).values.sum(-1)


def _min_max(values: Tensor) -> Tensor:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else torch.zeros_like(values)
