r"""Spatial entropy of feature maps by aura matrices.

Musat and Andonie, "Accelerating Convolutional Neural Network Pruning via Spatial Aura Entropy",
2023 (short: "Spatial Aura Entropy"), and "Pruning Convolutional Filters via Reinforcement Learning
with Entropy Minimization", 2023 (short: "Entropy Minimization").

A map is quantised into ``bins`` symbols. The aura matrix of an offset ``(k, l)`` counts the pairs
of symbols at ``(i, j)`` and ``(i + k, j + l)``; its entropy relative to that of a single pixel is 0
where a neighbour is known exactly and 1 where it is independent. AME is the mean over offsets.

The papers leave choices open, for which the golden vectors define what holds here. ``H(0)`` is the
mean entropy of the pair table's own marginals, which keeps the relative entropy in [0, 1] without
clipping. The tables of ``(-1, 0)`` and ``(0, -1)`` are transposes of those of ``(1, 0)`` and
``(0, 1)``, so two offsets give the mean over four. The pairs of all samples of a batch are counted
in one table for each channel.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from amc_env.information.counts import entropy_of_symbols

Span = Literal["channel", "map", "layer"]
Scope = Span | Sequence[float]
Pool = Literal["batch", "sample"]
Base = Literal["pair", "global", "global-raw"]
Dead = Literal["constant", "zero"]
Bins = int | Literal["auto"]

OFFSETS = ((1, 0), (0, 1))
# With more bins, passing over the tables of small maps takes longer than sorting their pairs.
_COMPILED_BINS = 1024
_MOST_BINS = 256
_RANGES = {"channel": (0, 2, 3), "map": (2, 3), "layer": (0, 1, 2, 3)}


def bins_for(x: Tensor, bins: Bins) -> int:
    """The number of bins for maps (N, C, H, W): the given one, or one that the pairs can fill.

    The entropy of a table with fewer pairs than cells measures the number of pairs rather than what
    the maps show; this is warned about. ``"auto"`` is the greatest power of 2 whose square the
    pairs of an offset reach, from 2 to 256. The papers have no such rule.

    Raises:
        ValueError: ``bins`` is neither a number of at least 2 nor ``"auto"``.
    """
    check_bins(bins)
    samples, _, height, width = x.shape
    pairs = samples * min((height - 1) * width, height * (width - 1))
    if bins == "auto":
        return min(max(2, 1 << (max(pairs, 1).bit_length() - 1) // 2), _MOST_BINS)
    if 0 < pairs < bins * bins:
        warnings.warn(
            f"AME of {pairs} pairs of pixels in {bins} x {bins} cells measures the number of "
            "pairs more than what the maps show; give more samples, or fewer bins: auto",
            stacklevel=2,
        )
    return bins


def check_bins(bins: object) -> None:
    """Refuse a value that is no number of bins.

    Raises:
        ValueError: It is neither a number of at least 2 nor ``"auto"``.
    """
    if bins != "auto" and not (isinstance(bins, int) and bins >= 2):
        raise ValueError(f"bins is {bins!r}; give at least 2, or auto")


def quantize(x: Tensor, *, bins: int, scope: Scope = "channel") -> Tensor:
    r"""Symbols 0 to ``bins - 1`` of maps (N, C, H, W), int64.

    .. math:: q = \min(\lfloor (x - lo) / (hi - lo) \cdot bins \rfloor, bins - 1)

    ``lo`` and ``hi`` are the least and greatest value of the scope: a channel over all samples, a
    single map, the whole layer, or two given numbers. Musat and Andonie, "Spatial Aura Entropy",
    2023, bin the maps in equation 2 and do not say how. Chosen here: equal widths, a channel's own
    range over the batch, the greatest value in the last bin, values outside a given range in the
    first or last bin, and one symbol, 0, where ``lo`` equals ``hi``.

    Raises:
        ValueError: ``x`` is no batch of finite maps, ``bins`` is below 1 or the scope is unknown.
    """
    return torch.stack(list(channel_symbols(x, bins=bins, scope=scope)), 1)


def channel_symbols(x: Tensor, *, bins: int, scope: Scope = "channel") -> Iterator[Tensor]:
    """The symbols (N, H, W) of one channel of maps (N, C, H, W) after the other; see ``quantize``.

    One channel at a time stays in the processor's cache, which makes everything after it faster.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    low, high = _limits(x, scope)
    return (
        _symbols(x[:, c], low[:, c].double(), high[:, c].double(), bins) for c in range(x.shape[1])
    )


def pair_counts(symbols: Tensor, *, offset: tuple[int, int], bins: int) -> Tensor:
    r"""The aura matrix (bins, bins): how often symbol ``g'`` stands at an offset from symbol ``g``.

    .. math:: c_{gg'}(k, l) = |\{(i, j) : X_{i, j} = g, X_{i + k, j + l} = g'\}|

    ``X`` is ``symbols``, (H, W) or (n, H, W), whose counts add up; ``(k, l)`` is the offset, down
    and right. Musat and Andonie, "Spatial Aura Entropy", 2023, equation 2, times the number of
    pairs. Chosen here: only pairs with both pixels inside count, without padding or wrapping.
    """
    first, second = shifted(symbols, offset)
    codes = (first * bins + second).flatten()
    return torch.bincount(codes, minlength=bins * bins).view(bins, bins)


def ame_of_symbols(symbols: Tensor, *, bins: int, h0: Base = "pair") -> float:
    r"""AME of maps of symbols (H, W) or (n, H, W), pooled into one table an offset.

    .. math:: H_{AME} = \frac{1}{4} (H_R(-1, 0) + H_R(0, -1) + H_R(1, 0) + H_R(0, 1)), \quad
              H_R(k, l) = \frac{H(k, l) - H(0)}{H(0)}

    ``H(k, l)`` is the entropy of the aura matrix. Musat and Andonie, "Spatial Aura Entropy", 2023,
    equations 3, 4 and 6. Chosen here: ``H(0)`` is the mean entropy of the matrix's marginals;
    ``h0="global"`` takes it from all pixels and clips to [0, 1], ``"global-raw"`` does not clip. 0
    where ``H(0)`` is 0. An offset without a pair is left out; NaN where none has one.
    """
    return float(ame_of_rows(symbols.reshape(1, -1, *symbols.shape[-2:]), bins=bins, h0=h0))


def ame_of_rows(symbols: Tensor, *, bins: int, h0: Base = "pair") -> Tensor:
    """``ame_of_symbols`` of each of the stacks (rows, n, H, W): (rows,), float64."""
    if h0 not in get_args(Base):
        raise ValueError(f"h0 {h0!r} does not exist; choose one of {', '.join(get_args(Base))}")
    pixels = None if h0 == "pair" else entropy_of_symbols(symbols.flatten(1), bins=bins)
    values = [relative_entropy(symbols, offset=o, bins=bins, base=pixels) for o in OFFSETS]
    stacked = torch.stack(values)
    return (stacked if h0 == "global-raw" else stacked.clamp(0.0, 1.0)).nanmean(0)


def relative_entropy(
    symbols: Tensor, *, offset: tuple[int, int], bins: int, base: Tensor | None = None
) -> Tensor:
    r"""``H_R`` of each of the stacks (rows, n, H, W) at one offset, (rows,), float64.

    .. math:: H_R(k, l) = \frac{H(k, l) - H(0)}{H(0)}

    Musat and Andonie, "Spatial Aura Entropy", 2023, equation 4. ``base`` is ``H(0)`` of each row,
    (rows,); without one, the mean entropy of the first and of the second pixels. 0 where ``H(0)``
    is 0; NaN without a pair.
    """
    first, second = (pixels.flatten(1) for pixels in shifted(symbols, offset))
    joint = entropy_of_symbols(first * bins + second, bins=bins * bins)
    if base is None:
        base = marginal_entropy(first, second, bins=bins)
    relative = torch.where(base > 0, (joint - base) / base, 0.0)
    return torch.where(joint.isnan(), joint, relative)


def marginal_entropy(first: Tensor, second: Tensor, *, bins: int) -> Tensor:
    """``H(0)``: the mean entropy of the first and second pixels of pairs, both (rows, pairs)."""
    return (entropy_of_symbols(first, bins=bins) + entropy_of_symbols(second, bins=bins)) / 2


def spatial_entropy(
    x: Tensor, *, bins: int = 256, scope: Scope = "channel", pool: Pool = "batch", h0: Base = "pair"
) -> Tensor:
    """AME of every channel of maps (N, C, H, W), (C,) in the type of ``x``; NaN for 1 x 1 maps.

    "Spatial Aura Entropy", equation 6, and "Entropy Minimization", equation 5, for one map; see
    ``ame_of_symbols``. Chosen here: ``pool="batch"`` counts the pairs of all samples in one table
    for each channel; ``"sample"``
    averages one AME a map over the maps that are not constant, 0 where all are.
    """
    return _channel_entropies(x, bins=bins, scope=scope, pool=pool, h0=h0).to(x.dtype)


def live_channels(x: Tensor, *, dead: Dead = "constant") -> Tensor:
    """Which channels of maps (N, C, H, W) are alive, (C,), boolean.

    Chosen here: a channel is dead if it has one value over the batch; with ``dead="zero"`` only if
    that value is 0.
    """
    if dead not in get_args(Dead):
        raise ValueError(f"dead {dead!r} does not exist; choose one of {', '.join(get_args(Dead))}")
    low, high = (limit[0, :, 0, 0] for limit in _limits(x, "channel"))
    return high > low if dead == "constant" else (high != 0) | (low != 0)


def layer_entropy(
    x: Tensor,
    *,
    bins: int = 256,
    scope: Scope = "channel",
    pool: Pool = "batch",
    h0: Base = "pair",
    dead: Dead = "constant",
) -> float:
    """Mean AME of the live channels; NaN where none is alive or the maps are 1 x 1.

    Musat and Andonie, "Entropy Minimization", 2023, average over all activation maps of a layer.
    Chosen here: a dead channel, whose entropy of 0 would reward killing channels, is left out.
    """
    live = live_channels(x, dead=dead)
    if not live.any():
        return float("nan")
    return float(_channel_entropies(x, bins=bins, scope=scope, pool=pool, h0=h0)[live].nanmean())


def entropy_reward(
    layers: Iterable[Tensor],
    *,
    bins: Bins = 256,
    scope: Scope = "channel",
    pool: Pool = "batch",
    h0: Base = "pair",
    dead: Dead = "constant",
) -> float:
    r"""1 - the mean of ``layer_entropy`` over layers; 0 where no layer has one.

    .. math:: R = 1 - \frac{1}{L} \sum_{i=1}^{L} H_{AME}(\mathbf{X}_i)

    ``X_i`` are the maps (N, C, H, W) of layer ``i``. Musat and Andonie, "Entropy Minimization",
    2023, the reward of its section 4. Chosen here: layers without a number (1 x 1 maps, no live
    channel) are left out of the mean. Bins go through ``bins_for``, layer by layer.
    """
    each = [
        layer_entropy(x, bins=bins_for(x, bins), scope=scope, pool=pool, h0=h0, dead=dead)
        for x in layers
    ]
    values = torch.tensor(each, dtype=torch.float64)
    return 0.0 if values.isnan().all() else 1.0 - float(values.nanmean())


def shifted(symbols: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of the first and of the second pixel of every pair, of maps (..., H, W)."""
    down, right = offset
    # A pair's code, first * bins + second, may be too great for the type of a symbol.
    symbols = symbols.long()
    height, width = symbols.shape[-2:]
    rows, columns = max(height - abs(down), 0), max(width - abs(right), 0)

    def part(row: int, column: int) -> Tensor:
        return symbols[..., row : row + rows, column : column + columns]

    return part(max(-down, 0), max(-right, 0)), part(max(down, 0), max(right, 0))


def _channel_entropies(x: Tensor, *, bins: int, scope: Scope, pool: Pool, h0: Base) -> Tensor:
    """``spatial_entropy`` before it is rounded to the type of ``x``, float64."""
    if pool not in get_args(Pool):
        raise ValueError(f"pool {pool!r} does not exist; choose one of {', '.join(get_args(Pool))}")
    if x.device.type == "cpu" and pool == "batch" and h0 == "pair" and 1 <= bins <= _COMPILED_BINS:
        return _compiled_entropies(x, bins=bins, scope=scope)
    return _torch_entropies(x, bins=bins, scope=scope, pool=pool, h0=h0)


def _compiled_entropies(x: Tensor, *, bins: int, scope: Scope) -> Tensor:
    """``_channel_entropies`` of maps in main memory, all samples pooled, ``h0`` of the pairs."""
    # numba takes half a second to import, which only those who call this need to wait for.
    from amc_env.information.pair_tables import neighbour_entropies

    low, high = _limits(x, scope)
    return neighbour_entropies(x, low=low, high=high, bins=bins).clamp(0.0, 1.0).nanmean(0)


def _torch_entropies(x: Tensor, *, bins: int, scope: Scope, pool: Pool, h0: Base) -> Tensor:
    """``_channel_entropies`` on any device, one channel after the other."""
    values = [
        ame_of_rows(symbols[None], bins=bins, h0=h0)[0]
        if pool == "batch"
        else _mean_of_maps(x[:, c], ame_of_rows(symbols[:, None], bins=bins, h0=h0))
        for c, symbols in enumerate(channel_symbols(x, bins=bins, scope=scope))
    ]
    return torch.stack(values)


def _limits(x: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """The least and greatest value of the scope of each map, (N or 1, C, 1, 1)."""
    if x.dim() != 4 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(
            f"maps have the shape {tuple(x.shape)} and type {x.dtype}; "
            "give floating point (samples, channels, height, width) with no dimension of size 0"
        )
    name = scope if isinstance(scope, str) else "channel"
    if name not in _RANGES:
        raise ValueError(f"scope {scope!r} does not exist; choose one of {', '.join(_RANGES)}")
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    if not (low.isfinite() & high.isfinite()).all():
        raise ValueError("maps hold NaN or infinity; give finite maps")
    if name == "map":
        return low, high
    low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    if name == "layer":
        low, high = low.min().expand_as(low), high.max().expand_as(high)
    elif not isinstance(scope, str):
        low, high = (low.new_full(low.shape, end, dtype=torch.float64) for end in scope)
    return low, high


def _symbols(x: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    span = high - low
    # A range of no width has one symbol, whatever it is divided by.
    width = torch.where(span > 0, span, float("inf"))
    return (x.double() - low).div_(width).mul_(bins).clamp_(0, bins - 1).long()


def _mean_of_maps(x: Tensor, values: Tensor) -> Tensor:
    """The mean of one value a map (N,) over the maps of a channel (N, H, W) that vary."""
    if x[0].numel() == 1:
        return values.new_full((), float("nan"))
    low, high = torch.aminmax(x.flatten(1), dim=1)
    varied = values[high > low]
    return varied.mean() if len(varied) else values.new_zeros(())
