r"""Information capacity and independence of filters, from weights alone (document 001).

Capacity is high where a filter's kernels differ evenly; independence where a filter is far from the
others of its layer. Where the document leaves it open, kernel and filter are never their own
neighbour, and both terms are min-max scaled within the layer before they are weighed.
"""

from math import log, log2
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["euclidean", "manhattan", "chebyshev", "cosine"]
_NORMS = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": float("inf")}


def filter_entropy(
    weight: Tensor, *, nearest: int | None = None, normalize: bool = False
) -> Tensor:
    r"""Entropy in bits of each filter's kernels, (outputs,).

    .. math:: H = -\sum_i p_i \log_2 p_i, \quad p = \mathrm{softmax}_i \sum_{j} |k_i - k_j|_2

    Args:
        weight: (outputs, inputs, kh, kw), or (outputs, inputs) of a linear layer.
        nearest: Sum over so many nearest other kernels; over all if None or too many.
        normalize: Divide by the logarithm of the number of inputs.
    """
    kernels = _kernels(weight).flatten(2)
    logits = _sums(_distances(kernels, "euclidean"), nearest)
    log_share = logits.log_softmax(-1)
    entropy = -(log_share.exp() * log_share).sum(-1).clamp_max(0) / log(2)
    if normalize:
        inputs = kernels.shape[1]
        entropy = entropy / log2(inputs) if inputs > 1 else torch.zeros_like(entropy)
    return entropy.to(weight.dtype)


def capacity(weight: Tensor, *, nearest: int | None = None, normalize: bool = False) -> Tensor:
    """1 - filter entropy, (outputs,); higher means keep (document 001)."""
    return 1.0 - filter_entropy(weight, nearest=nearest, normalize=normalize)


def independence(
    weight: Tensor, *, nearest: int | None = None, metric: Metric = "euclidean"
) -> Tensor:
    """Sum of each filter's distances to the nearest other filters, (outputs,); all if None."""
    filters = _kernels(weight).flatten(1)
    return _sums(_distances(filters, metric), nearest).to(weight.dtype)


def importance(
    weight: Tensor,
    *,
    sigma: float = 0.8,
    nearest: tuple[int | None, int | None] = (None, None),
    metric: Metric = "euclidean",
    scaled: bool = True,
) -> Tensor:
    r"""Capacity and independence together, (outputs,); higher means keep (document 001).

    .. math:: \sigma \cdot capacity + (1 - \sigma) \cdot independence

    Args:
        weight: (outputs, inputs, kh, kw), or (outputs, inputs).
        sigma: Weight of capacity.
        nearest: Neighbours that count among kernels, and among filters.
        metric: Distance between filters.
        scaled: Min-max scale both terms within the layer first.
    """
    first = capacity(weight, nearest=nearest[0])
    second = independence(weight, nearest=nearest[1], metric=metric)
    if scaled:
        first, second = _min_max(first), _min_max(second)
    return sigma * first + (1.0 - sigma) * second


def _kernels(weight: Tensor) -> Tensor:
    if weight.dim() not in (2, 4):
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
    norms = rows.norm(dim=-1)
    scale = norms[..., :, None] * norms[..., None, :]
    cosine = (rows @ rows.mT / torch.where(scale > 0, scale, 1.0)).clamp(-1, 1)
    both_zero = (norms[..., :, None] == 0) & (norms[..., None, :] == 0)
    return torch.where(both_zero, 0.0, 1.0 - torch.where(scale > 0, cosine, 0.0))


def _sums(distances: Tensor, nearest: int | None) -> Tensor:
    """Sum of each row's distances to the nearest others; sorted only where some are left out."""
    others = distances.shape[-1] - 1
    diagonal = torch.eye(others + 1, dtype=torch.bool, device=distances.device)
    if nearest is None or nearest >= others:
        return distances.masked_fill(diagonal, 0.0).sum(-1)
    far = distances.masked_fill(diagonal, float("inf"))
    return far.topk(nearest, dim=-1, largest=False).values.sum(-1)


def _min_max(values: Tensor) -> Tensor:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else torch.zeros_like(values)
