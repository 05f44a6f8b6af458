r"""Mutual information of feature maps with a grid made of the label.

The label's one-hot vector is repeated into a square, resized to a map's size and read as a second
image beside the map: the pairs of pixels of both images give a joint AME. Musat and Andonie,
"Accelerating Convolutional Neural Network Pruning via Spatial Aura Entropy", 2023.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from amc_env.information.aura import (
    OFFSETS,
    Pool,
    Scope,
    ame_of_rows,
    channel_symbols,
    marginal_entropy,
    relative_entropy,
    shifted,
)

Orient = Literal["columns", "rows"]
JointBase = Literal["pair", "x"]


def label_grids(
    labels: Tensor, *, classes: int, size: tuple[int, int], orient: Orient = "columns"
) -> Tensor:
    r"""The labels (N,) as images (N, H, W) of the symbols 0 and 1, int64.

    .. math:: Y_{nij} = [\lfloor j c / W \rfloor = y_n]

    ``y`` are the labels, ``c`` is ``classes``, ``(H, W)`` is ``size``. Musat and Andonie, "Spatial
    Aura Entropy", 2023, below equation 9, "interpolation with constant values". Chosen here:
    nearest, in integers, and upright stripes (``"columns"``); ``"rows"`` has ``i`` and ``H`` for
    ``j`` and ``W``. Where a map is narrower than there are classes, some labels have a grid of
    zeros.

    Raises:
        ValueError: A label is not from 0 to ``classes - 1`` or the orientation is unknown.
    """
    if orient not in get_args(Orient):
        raise ValueError(f"orient {orient!r} does not exist; choose columns or rows")
    if labels.dim() != 1 or not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(
            f"labels are {labels.tolist()}; give one from 0 to {classes - 1} for each sample"
        )
    height, width = size
    length = width if orient == "columns" else height
    stripe = torch.arange(length, device=labels.device) * classes // length
    grid = (stripe == labels[:, None]).long()
    across = grid[:, None, :] if orient == "columns" else grid[:, :, None]
    return across.expand(-1, height, width).contiguous()


def joint_ame(
    symbols: Tensor, other: Tensor, *, bins: int, other_bins: int = 2, h0: JointBase = "pair"
) -> float:
    r"""Joint AME of two images of symbols, both (H, W) or (n, H, W).

    .. math:: p_{gg'g''g'''}(k, l) = P(X_{i, j} = g, X_{i+k, j+l} = g',
                                       Y_{i, j} = g'', Y_{i+k, j+l} = g''')

    ``X`` is ``symbols``, ``Y`` is ``other``. Musat and Andonie, "Spatial Aura Entropy", 2023,
    equations 8 and 9: the pair table of the product symbol ``x * other_bins + y``. Chosen here:
    ``H(0)`` is the product's own, which keeps the result in [0, 1]; ``h0="x"`` takes that of ``X``
    alone, with no upper bound, NaN where ``X`` is constant.

    Raises:
        ValueError: The images differ in shape or ``h0`` is unknown.
    """
    if symbols.shape != other.shape:
        raise ValueError(
            f"images have the shapes {tuple(symbols.shape)} and {tuple(other.shape)}; "
            "give two of one shape"
        )
    stacks = (image.reshape(1, -1, *image.shape[-2:]) for image in (symbols, other))
    return float(_joint_ame_of_rows(*stacks, bins=(bins, other_bins), h0=h0))


def grid_mi(
    x: Tensor,
    grids: Tensor,
    *,
    bins: int = 128,
    scope: Scope = "channel",
    pool: Pool = "batch",
    h0: JointBase = "pair",
) -> Tensor:
    r"""Mutual information of every channel with the label grids, (C,); higher means keep.

    .. math:: I(X, Y) = H_{AME}(X) - H_{AME}(X, Y)

    ``X`` are a channel's maps of ``x`` (N, C, H, W), ``Y`` the ``label_grids`` (N, H, W). Musat and
    Andonie, "Spatial Aura Entropy", 2023, equation 7, which takes the entropy of the label as 0.
    The paper names equation 5 (SDE) for the joint term. Chosen here: equation 9, the joint AME.
    Negative values are possible. ``pool="sample"`` averages one value for each sample.

    Raises:
        ValueError: ``x`` is no batch of maps or ``grids`` do not fit it.
    """
    if pool not in get_args(Pool):
        raise ValueError(f"pool {pool!r} does not exist; choose one of {', '.join(get_args(Pool))}")
    channels = channel_symbols(x, bins=bins, scope=scope)
    if grids.shape != x[:, 0].shape:
        raise ValueError(
            f"grids have the shape {tuple(grids.shape)}; give {tuple(x[:, 0].shape)}, one a sample"
        )
    stack = 0 if pool == "batch" else 1
    other = grids.unsqueeze(stack)
    values = []
    for channel in channels:
        symbols = channel.unsqueeze(stack)
        joint = _joint_ame_of_rows(symbols, other, bins=(bins, 2), h0=h0)
        values.append((ame_of_rows(symbols, bins=bins) - joint).nanmean())
    return torch.stack(values).to(x.dtype)


def _joint_ame_of_rows(
    symbols: Tensor, other: Tensor, *, bins: tuple[int, int], h0: JointBase
) -> Tensor:
    """``joint_ame`` of each of the stacks (rows, n, H, W), (rows,)."""
    both = symbols * bins[1] + other
    total = bins[0] * bins[1]
    if h0 == "pair":
        return ame_of_rows(both, bins=total)
    if h0 != "x":
        raise ValueError(f"h0 {h0!r} does not exist; choose pair or x")
    values = []
    for offset in OFFSETS:
        first, second = (pixels.flatten(1) for pixels in shifted(symbols, offset))
        base = marginal_entropy(first, second, bins=bins[0])
        relative = relative_entropy(both, offset=offset, bins=total, base=base)
        values.append(torch.where(base > 0, relative, float("nan")))
    return torch.stack(values).nanmean(0)
