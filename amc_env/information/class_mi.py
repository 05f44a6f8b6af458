r"""Mutual information between the pixels of a channel and the class of the sample.

This is a direct estimate of the mutual information that label grids stand for (Musat and Andonie,
"Spatial Aura Entropy", 2023, equation 1), with the class itself for ``Y``. It is never negative,
and ``H(class)`` for a channel that determines the class. It is not in the paper; the golden vectors
define it.
"""

from math import prod

import torch
from torch import Tensor

from amc_env.information.aura import OFFSETS, Scope, channel_symbols, shifted
from amc_env.information.counts import entropy_of_symbols


def class_mi(
    x: Tensor,
    labels: Tensor,
    *,
    bins: int = 16,
    scope: Scope = "channel",
    order: int = 1,
    normalize: bool = False,
) -> Tensor:
    r"""Mutual information in bits of every channel with the class, (C,); higher means keep.

    .. math:: I(X; Y) = H(X) + H(Y) - H(X, Y)

    ``X`` is the symbol of a pixel of the maps ``x`` (N, C, H, W) or, at ``order`` 2, of a pixel and
    its lower or right neighbour, averaged over the two; ``Y`` the sample's class, of ``labels``
    (N,), any integers. Musat and Andonie, "Spatial Aura Entropy", 2023, equation 1. Chosen here:
    all pixels of all samples are pooled, the plug-in estimate is never below 0, 1 x 1 maps are read
    at order 1, and ``normalize`` divides by ``H(Y)``. The estimate is biased upwards where cells
    outnumber samples; see ``class_mi_excess``.

    Raises:
        ValueError: ``x`` is no batch of maps, ``labels`` do not fit it, or the order is unknown.
    """
    values = _information(x, labels[None], bins=bins, scope=scope, order=order)[0]
    if normalize:
        classes = _classes(labels[None])
        entropy = entropy_of_symbols(classes, bins=int(classes.max()) + 1)
        values = torch.where(entropy > 0, values / entropy, 0.0)
    return values.to(x.dtype)


def class_mi_excess(
    x: Tensor,
    labels: Tensor,
    permutations: Tensor,
    *,
    bins: int = 16,
    scope: Scope = "channel",
    order: int = 1,
) -> Tensor:
    r"""``class_mi`` less its mean over permuted labels, in bits, (C,); higher means keep.

    .. math:: I(X; Y) - \frac{1}{P} \sum_p I(X; Y_{\pi_p})

    ``pi`` are the rows of ``permutations`` (P, N), orders of the samples. The mean over shuffled
    labels is the bias of the estimate for a channel that is independent of the class.

    Raises:
        ValueError: As ``class_mi``, or ``permutations`` is not (P, N) with P of 1 or more.
    """
    if permutations.dim() != 2 or permutations.shape[1:] != labels.shape or not len(permutations):
        raise ValueError(
            f"permutations have the shape {tuple(permutations.shape)}; "
            f"give one or more rows, each an order of {len(labels)} samples"
        )
    every = torch.cat([labels[None], labels[permutations]])
    values = _information(x, every, bins=bins, scope=scope, order=order)
    return (values[0] - values[1:].mean(0)).to(x.dtype)


def _information(x: Tensor, labels: Tensor, *, bins: int, scope: Scope, order: int) -> Tensor:
    """Information of each channel of ``x`` with each row of labels (R, N): (R, C), float64."""
    channels = channel_symbols(x, bins=bins, scope=scope)
    if labels.shape[1:] != x.shape[:1]:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape[1:])}; "
            f"give one for each of {len(x)} samples"
        )
    if order not in (1, 2):
        raise ValueError(f"order is {order}; give 1 for pixels or 2 for pairs of pixels")
    classes = _classes(labels)
    total = int(classes.max()) + 1
    entropy = entropy_of_symbols(classes[:1], bins=total)
    values = []
    for symbols in channels:
        codes = _codes(symbols, bins=bins, order=order)
        # One row of labels at a time: all at once would hold R copies of the pixels.
        per_code = [
            torch.cat([_shared(code, row, size, total) for row in classes]) + entropy
            for code, size in codes
        ]
        values.append(torch.stack(per_code).mean(0).clamp_min(0.0))
    return torch.stack(values, 1)


def _classes(labels: Tensor) -> Tensor:
    """Labels numbered from 0 without gaps, in their shape."""
    numbered: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbered


def _codes(symbols: Tensor, *, bins: int, order: int) -> list[tuple[Tensor, int]]:
    """Symbols or pairs of symbols as codes (N, pixels), and the number of possible codes."""
    if order == 2:
        pairs = [shifted(symbols, offset) for offset in OFFSETS]
        codes = [(a * bins + b).flatten(1) for a, b in pairs if prod(a.shape)]
        if codes:
            return [(code, bins * bins) for code in codes]
    return [(symbols.flatten(1), bins)]


def _shared(code: Tensor, classes: Tensor, size: int, total: int) -> Tensor:
    """H(X) - H(X, Y) of codes (N, pixels) and classes (N,), (1,)."""
    both = (code * total + classes[:, None]).view(1, -1)
    own = entropy_of_symbols(code.reshape(1, -1), bins=size)
    return own - entropy_of_symbols(both, bins=size * total)
