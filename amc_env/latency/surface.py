"""The time of a layer as a function of its numbers of channels, between the measured points."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", int, float)

Point = tuple[int, int]

# As many numbers are in the widest vectors of today's processors.
LANES = 16


class Surface:
    """Interpolates between measured numbers of input and output channels.

    Where every pair of the measured numbers was measured, the interpolation is bilinear. Other
    layers have inputs and outputs that cannot be chosen freely, as in a depthwise convolution or
    between two sums of one residual stage; there it is linear in the geometric mean of the two
    numbers. Below the smallest measured numbers the line through the two smallest goes on.

    Multiples of 16 are interpolated between multiples of 16, and other numbers between others: a
    depthwise convolution of 96 channels can take half the time of one of 95.

    Args:
        times: By the numbers of input and output channels.
    """

    def __init__(self, times: Mapping[Point, float]) -> None:
        self._times = dict(times)
        self._rows = sorted({inputs for inputs, _ in times})
        self._columns = sorted({outputs for _, outputs in times})
        self._is_grid = len(times) == len(self._rows) * len(self._columns)

    def at(self, inputs: int, outputs: int) -> float:
        """The time at these numbers, never less than a tenth of the smallest measured one."""
        found = self._on_grid(inputs, outputs) if self._is_grid else self._on_line(inputs, outputs)
        return max(found, 0.1 * min(self._times.values()))

    def _on_grid(self, inputs: int, outputs: int) -> float:
        columns = _alike(outputs, self._columns)
        near = _neighbours(inputs, _alike(inputs, self._rows))

        def along_columns(row: int) -> float:
            times = [self._times[row, column] for column in columns]
            return _interpolated(outputs, columns, times)

        return _interpolated(inputs, near, [along_columns(row) for row in near])

    def _on_line(self, inputs: int, outputs: int) -> float:
        is_fast = _is_multiple(inputs) and _is_multiple(outputs)
        alike = {
            point: time
            for point, time in self._times.items()
            if is_fast == all(map(_is_multiple, point))
        }
        line = _averaged(alike if len(alike) > 1 else self._times)
        return _interpolated((inputs * outputs) ** 0.5, list(line), list(line.values()))


def _is_multiple(number: int) -> bool:
    return number % LANES == 0


def _alike(number: int, known: Sequence[int]) -> Sequence[int]:
    """The measured numbers to interpolate between: multiples of 16, or the others."""
    if number in known:
        return [number]
    alike = [other for other in known if _is_multiple(other) == _is_multiple(number)]
    return alike if len(alike) > 1 else known


def _averaged(times: Mapping[Point, float]) -> dict[float, float]:
    """Mean times by the geometric means of the two numbers, ascending."""
    found: dict[float, list[float]] = {}
    for (inputs, outputs), time in times.items():
        found.setdefault((inputs * outputs) ** 0.5, []).append(time)
    return {mean: sum(found[mean]) / len(found[mean]) for mean in sorted(found)}


def _neighbours(x: float, xs: Sequence[T]) -> Sequence[T]:
    """The two numbers between which ``x`` lies, or the nearest two; a single one by itself."""
    start = min(max(bisect_right(xs, x) - 1, 0), max(len(xs) - 2, 0))
    return xs[start : start + 2]


def _interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    near = _neighbours(x, xs)
    start = xs.index(near[0])
    if len(near) == 1:
        return ys[start]
    share = (x - near[0]) / (near[1] - near[0])
    return ys[start] + share * (ys[start + 1] - ys[start])
