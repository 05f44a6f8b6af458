r"""Spatial entropy of feature maps by aura matrices (document 000, equations 2 to 6).

A map is quantised into ``bins`` symbols. The aura matrix of an offset ``(k, l)`` counts the pairs
of symbols at ``(i, j)`` and ``(i + k, j + l)``; its entropy relative to that of a single pixel,

.. math:: H_R(k, l) = \frac{H(k, l) - H(0)}{H(0)}

is 0 where a neighbour is known exactly and 1 where it is independent. AME is the mean over offsets.

Decided where the documents leave a choice: ``H(0)`` is the mean entropy of the pair table's own
marginals, which keeps ``H_R`` in [0, 1] with no clipping; the tables of ``(-1, 0)`` and
``(0, -1)`` are transposes of those of ``(1, 0)`` and ``(0, 1)``, so two offsets suffice; pairs of
all samples of a batch fall into one table a channel.
"""

from collections.abc import Iterable, Sequence
from math import log
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["channel", "map", "layer"] | Sequence[float]
Pool = Literal["batch", "sample"]
Base = Literal["pair", "global", "global-raw"]
Dead = Literal["constant", "zero"]

OFFSETS = ((1, 0), (0, 1))


def quantize(x: Tensor, *, bins: int, scope: Scope = "channel") -> Tensor:
    r"""Symbols 0 to ``bins - 1`` of maps (N, C, H, W), int64.

    .. math:: q = \min(\lfloor (x - lo) / (hi - lo) \cdot bins \rfloor, bins - 1)

    ``lo`` and ``hi`` are the least and greatest value of the scope: a channel over all samples, a
    single map, the whole layer, or two given numbers; all symbols are 0 where they are equal.

    Raises:
        ValueError: ``x`` is no batch of maps, or ``bins`` is below 1.
    """
    _check_maps(x)
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    low, high = _range(x.double(), scope)
    span = high - low
    # A range of no width has one symbol, whatever it is divided by.
    scaled = (x.double() - low) / torch.where(span > 0, span, 1.0) * bins
    symbols = scaled.floor().clamp_(0, bins - 1).long()
    return symbols * (span > 0)


def pair_counts(symbols: Tensor, *, offset: tuple[int, int], bins: int) -> Tensor:
    """The aura matrix (bins, bins) of maps (H, W) or (n, H, W): counts of symbol pairs.

    Rows are the symbol at ``(i, j)``, columns that at ``(i + k, j + l)``; a pair counts where both
    pixels lie inside, without padding or wrapping (document 000, equation 2).
    """
    first, second = _shifted(symbols, offset)
    codes = (first * bins + second).flatten()
    return torch.bincount(codes, minlength=bins * bins).view(bins, bins)


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Shannon entropy in bits of the last dimension of counts, float64; 0 where all are 0."""
    share = counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)
    nats: Tensor = -torch.special.xlogy(share, share).sum(-1)
    return nats / log(2)


def ame_of_symbols(symbols: Tensor, *, bins: int, h0: Base = "pair") -> float:
    """AME of maps of symbols (H, W) or (n, H, W), pooled (document 000, equation 6).

    An offset without a pair is left out; NaN where none has one. ``h0="global"`` takes ``H(0)``
    from all pixels and clips, ``"global-raw"`` does not clip.
    """
    flat = symbols.reshape(-1, *symbols.shape[-2:])
    pixels = entropy_of_counts(torch.bincount(flat.flatten(), minlength=bins))
    values = [_relative(pair_counts(flat, offset=o, bins=bins), h0, pixels) for o in OFFSETS]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def spatial_entropy(
    x: Tensor, *, bins: int = 256, scope: Scope = "channel", pool: Pool = "batch", h0: Base = "pair"
) -> Tensor:
    """AME of every channel of maps (N, C, H, W), (C,) in the type of ``x``.

    ``pool="batch"`` has one table a channel; ``"sample"`` averages one AME a map over the maps that
    are not constant. NaN for maps of one pixel.
    """
    symbols = quantize(x, bins=bins, scope=scope)
    measure = _pooled if pool == "batch" else _averaged
    return torch.tensor(
        [measure(x[:, c], symbols[:, c], bins, h0) for c in range(x.shape[1])],
        dtype=x.dtype,
        device=x.device,
    )


def live_channels(x: Tensor, *, dead: Dead = "constant") -> Tensor:
    """Which channels of maps (N, C, H, W) are alive: not constant, or not all zero."""
    _check_maps(x)
    values = x.transpose(0, 1).flatten(1)
    if dead == "constant":
        return values.amax(1) > values.amin(1)
    return (values != 0).any(1)


def layer_entropy(
    x: Tensor,
    *,
    bins: int = 256,
    scope: Scope = "channel",
    pool: Pool = "batch",
    dead: Dead = "constant",
) -> float:
    """Mean AME of the live channels; NaN where none is alive or maps have one pixel."""
    live = live_channels(x, dead=dead)
    if not live.any():
        return float("nan")
    return float(spatial_entropy(x, bins=bins, scope=scope, pool=pool)[live].double().nanmean())


def entropy_reward(layers: Iterable[Tensor], *, bins: int = 256) -> float:
    """1 - the mean of ``layer_entropy`` over layers (document 002); 0 where no layer has one."""
    values = torch.tensor([layer_entropy(x, bins=bins) for x in layers], dtype=torch.float64)
    return 0.0 if values.isnan().all() else 1.0 - float(values.nanmean())


def _check_maps(x: Tensor) -> None:
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"maps have the shape {tuple(x.shape)}; give (samples, channels, H, W)")


def _range(x: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    if isinstance(scope, str):
        if scope not in _RANGES:
            raise ValueError(f"scope {scope!r} does not exist; choose one of {', '.join(_RANGES)}")
        dims = _RANGES[scope]
        return x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    low, high = scope
    return x.new_tensor(low), x.new_tensor(high)


_RANGES = {"channel": (0, 2, 3), "map": (2, 3), "layer": (0, 1, 2, 3)}


def _shifted(symbols: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of the first and of the second pixel of every pair."""
    down, right = offset
    height, width = symbols.shape[-2:]
    rows, columns = max(height - abs(down), 0), max(width - abs(right), 0)

    def part(row: int, column: int) -> Tensor:
        return symbols[..., row : row + rows, column : column + columns]

    return part(max(-down, 0), max(-right, 0)), part(max(down, 0), max(right, 0))


def _relative(table: Tensor, h0: Base, pixels: Tensor) -> float | None:
    """``H_R`` of one table; None without a pair."""
    if not table.any():
        return None
    if h0 == "pair":
        base = (entropy_of_counts(table.sum(0)) + entropy_of_counts(table.sum(1))) / 2
    else:
        base = pixels
    if base <= 0:
        return 0.0
    relative = float((entropy_of_counts(table.flatten()) - base) / base)
    return relative if h0 == "global-raw" else min(max(relative, 0.0), 1.0)


def _pooled(_x: Tensor, symbols: Tensor, bins: int, h0: Base) -> float:
    return ame_of_symbols(symbols, bins=bins, h0=h0)


def _averaged(x: Tensor, symbols: Tensor, bins: int, h0: Base) -> float:
    if x[0].numel() == 1:
        return float("nan")
    flat = x.flatten(1)
    varied = (flat.amax(1) > flat.amin(1)).nonzero().flatten().tolist()
    values = [ame_of_symbols(symbols[n], bins=bins, h0=h0) for n in varied]
    return sum(values) / len(values) if values else 0.0
