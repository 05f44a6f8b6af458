r"""Relative entropies of neighbouring pixels, compiled by numba for maps in main memory.

The same numbers as ``aura.relative_entropy`` of ``aura.channel_symbols``, several times faster: a
channel's symbols and its two tables of pairs stay in the processor's cache, and the sum over a
table's cells grows with each pair that is counted,

.. math:: H = \log n - \frac{1}{n} \sum_g f(c_g), \quad f(c) = c \log c,

because counting one more in a cell of ``c`` adds ``f(c + 1) - f(c)``, which is looked up.

numba takes half a second to import, so this module is imported where it is used. A function is
compiled when it is first called, for a few seconds, and kept in numba's cache where that can be
written.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]
Cells = npt.NDArray[np.uint32]
Symbols = npt.NDArray[np.uint16]
Maps = npt.NDArray[np.float32] | Floats

_Function = TypeVar("_Function", bound=Callable[..., Any])


def neighbour_entropies(maps: Tensor, *, low: Tensor, high: Tensor, bins: int) -> Tensor:
    r"""``H_R`` at the offsets (1, 0) and (0, 1) of every channel, (2, C), float64; see ``aura``.

    ``maps`` are (N, C, H, W) on the CPU; ``low`` and ``high``, (N or 1, C, 1, 1), are the ranges to
    quantise them by. The pairs of all samples of a channel fall into one table an offset. NaN where
    an offset has no pair.
    """
    kept = maps.detach() if maps.dtype == torch.float32 else maps.detach().double()
    start, end = (limit.detach().double().flatten(1) for limit in (low, high))
    # A range of no width has one symbol, whatever it is divided by.
    span = torch.where(end > start, end - start, float("inf"))
    ranges = torch.stack([start, span]).expand(2, len(maps), -1).contiguous().numpy()
    flat = kept.flatten(2).contiguous().numpy()
    return torch.from_numpy(_relative_entropies(flat, ranges, maps.shape[3], bins))


def compiled(function: _Function) -> _Function:
    """``function`` compiled when it is first called, and cached if a folder for it can be written.

    Division follows IEEE 754, as in torch, instead of raising.
    """
    jit = partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return cast("_Function", jit(function, cache=True))
    except RuntimeError:
        return cast("_Function", jit(function))


@compiled
def _relative_entropies(maps: Maps, ranges: Floats, columns: int, bins: int) -> Floats:
    """``H_R`` (2, C) of maps (N, C, H * W) by ranges (2, N, C): least value and span."""
    samples, channels, pixels = maps.shape
    symbols = np.empty((samples, pixels), np.uint16)
    tables = np.zeros((2, bins * bins), np.int32)
    steps = _steps(samples * pixels)
    result = np.full((2, channels), np.nan)
    pairs = (samples * (pixels - columns), samples * (pixels - pixels // columns))
    for channel in range(channels):
        _quantize(symbols, maps, ranges, channel, bins)
        sums = _counted(tables, symbols, columns, bins, steps)
        for offset in range(2):
            n = pairs[offset]
            if n:
                base = _emptied_entropy(tables[offset], bins, n)
                joint = np.log(n) - sums[offset] / n
                result[offset, channel] = (joint - base) / base if base > 0 else 0.0
    return result


@compiled
def _steps(most: int) -> Floats:
    """``f(c + 1) - f(c)`` for ``c`` from 0 to ``most - 1``."""
    terms = np.zeros(most + 1)
    for count in range(2, most + 1):
        terms[count] = count * np.log(count)
    return terms[1:] - terms[:-1]


@compiled
def _quantize(symbols: Symbols, maps: Maps, ranges: Floats, channel: int, bins: int) -> None:
    """Fill in the symbols (N, H * W) of one channel of maps (N, C, H * W) as ``quantize`` does."""
    last = float(bins - 1)
    for sample in range(len(maps)):
        source, target = maps[sample, channel], symbols[sample]
        low, span = ranges[0, sample, channel], ranges[1, sample, channel]
        for pixel in range(len(source)):
            scaled = (np.float64(source[pixel]) - low) / span * bins
            # Not a number is neither, and becomes 0: a symbol must lie inside the table.
            positive = scaled if scaled > 0.0 else 0.0
            target[pixel] = np.int32(positive if positive < last else last)


@compiled
def _counted(
    tables: Counts, symbols: Symbols, columns: int, bins: int, steps: Floats
) -> tuple[float, float]:
    """Add the pairs of symbols (N, H * W) to two empty tables; returns the sum of ``f`` of each."""
    samples, pixels = symbols.shape
    cells = np.empty(pixels, np.uint32)
    down = right = 0.0
    for sample in range(samples):
        line = symbols[sample]
        _locate(cells, line, columns, bins)
        down += _counted_cells(tables[0], cells[: pixels - columns], steps)
        _locate(cells, line, 1, bins)
        for row in range(0, pixels, columns):
            # The last pixel of a row is followed by the next row's first, which is no neighbour.
            right += _counted_cells(tables[1], cells[row : row + columns - 1], steps)
    return down, right


@compiled
def _locate(cells: Cells, line: Symbols, distance: int, bins: int) -> None:
    """Fill in the cell of a table (bins * bins) for each pair of pixels at a distance in a line."""
    for pixel in range(len(line) - distance):
        cells[pixel] = np.uint32(line[pixel]) * np.uint32(bins) + np.uint32(line[pixel + distance])


@compiled
def _counted_cells(table: Counts, cells: Cells, steps: Floats) -> float:
    """Add one to each of the cells of a table; returns by how much its sum of ``f`` grows."""
    total = 0.0
    for cell in cells:
        count = table[cell]
        table[cell] = count + 1
        # Unsigned, because numba tests every signed index for being negative.
        total += steps[np.uint32(count)]
    return total


@compiled
def _emptied_entropy(table: Counts, bins: int, pairs: int) -> float:
    """The mean entropy of a table's marginals, in nats; the table is set to 0 on the way."""
    first = np.empty(bins, np.int32)
    second = np.zeros(bins, np.int32)
    for symbol in range(bins):
        row = table[symbol * bins : (symbol + 1) * bins]
        total = np.int32(0)
        for other in range(bins):
            second[other] += row[other]
            total += row[other]
        first[symbol] = total
        row[:] = 0
    nats = 0.0
    for symbol in range(bins):
        for count in (first[symbol], second[symbol]):
            if count:
                nats -= count * np.log(count / pairs)
    return nats / (2 * pairs)
