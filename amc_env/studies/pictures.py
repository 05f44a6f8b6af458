"""Pictures of studies, as PNG and SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from amc_env.studies.plan import Plan
from amc_env.studies.results import Row, read_rows
from amc_env.studies.rows import ACCURACY
from amc_env.studies.study import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

MACS = "MACs"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A point with a range.

    Attributes:
        x: Where it stands.
        middle: The point.
        low: The lower end.
        high: The upper end.
    """

    x: float
    middle: float
    low: float
    high: float


def draw_accuracies(plan: Plan, picture: Picture) -> Path:
    """Draw the accuracies of a study's rows: against a number, or below each other."""
    axes = list(plan.study.axes_at(plan.scale))
    rows = [row for row in read_rows(plan) if not row.is_original]
    stem, accuracy = plan.folder / "accuracies", "accuracy on test images"
    if picture.x is None:
        return draw_forest(_grouped(rows, axes, picture), stem, label=accuracy)
    places = [(row, _place(row, axes, picture.x)) for row in rows]
    # A baseline may have no number among those of an axis.
    points = [
        (", ".join(_values(row, axes, picture)), _bar(row, x)) for row, x in places if x is not None
    ]
    ordered = sorted(points, key=lambda point: (point[0], point[1].x))
    lines = {n: [bar for _, bar in own] for n, own in groupby(ordered, key=lambda point: point[0])}
    label = "share of the multiply-accumulates" if picture.x == MACS else picture.x
    return draw_lines(lines, stem, labels=(label, accuracy))


def draw_lines(lines: Mapping[str, Sequence[Bar]], stem: Path, *, labels: tuple[str, str]) -> Path:
    """Draw lines of points with their ranges."""
    figure, axes = _figure()
    axes.set(xlabel=labels[0], ylabel=labels[1])
    for number, (name, bars) in enumerate(lines.items()):
        xs, middles, errors = _columns(bars)
        gid = f"line-{number}"
        axes.errorbar(xs, middles, yerr=errors, marker="o", capsize=3, label=name, gid=gid)
    axes.grid(alpha=0.3)
    if any(lines):
        _add_legend(figure)
    return save(figure, stem)


def draw_forest(groups: Mapping[str, Mapping[str, Bar]], stem: Path, *, label: str) -> Path:
    """Draw numbers with their intervals below each other, a colour for every group."""
    figure, axes = _figure(height=1.5 + 0.3 * max(map(len, groups.values())))
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    for number, (group, bars) in enumerate(groups.items()):
        heights = [names.index(name) + 0.2 * number for name in bars]
        _, middles, errors = _columns(list(bars.values()))
        axes.errorbar(middles, heights, xerr=errors, fmt="o", capsize=3, label=group)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=label)
    _add_legend(figure)
    return save(figure, stem)


def draw_points(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    stem: Path,
    *,
    labels: tuple[str, str],
) -> Path:
    """Draw points, a colour for every group."""
    figure, axes = _figure()
    for name, (xs, ys) in groups.items():
        axes.scatter(xs, ys, s=8, alpha=0.6, label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    _add_legend(figure)
    return save(figure, stem)


def thinned(groups: Mapping[str, T], *, most: int = 8) -> dict[str, T]:
    """As many layers as colours can tell apart, evenly spread over the network."""
    names = list(groups)
    step = -(-len(names) // most)
    return {name: groups[name] for name in names[::step]}


def save(figure: "Figure", stem: Path) -> Path:
    """Save a figure as PNG and SVG, and return its path without an ending."""
    from amc_env.report.figures import save_figure

    save_figure(figure, stem)
    return stem


def _figure(*, height: float = 4.5) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.add_subplot()


def _add_legend(figure: "Figure") -> None:
    """A legend below the axes, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")


def _columns(bars: Sequence[Bar]) -> tuple[list[float], list[float], list[list[float]]]:
    """Places, points, and how far their ranges reach below and above them."""
    below = [bar.middle - bar.low for bar in bars]
    above = [bar.high - bar.middle for bar in bars]
    return [bar.x for bar in bars], [bar.middle for bar in bars], [below, above]


def _grouped(
    rows: Sequence[Row], axes: Sequence[str], picture: Picture
) -> dict[str, dict[str, Bar]]:
    """A colour for every value of the last axis of a picture, and a place for all others."""
    groups: dict[str, dict[str, Bar]] = {}
    for row in rows:
        *others, last = _values(row, axes, picture)
        groups.setdefault(last, {})[", ".join(others)] = _bar(row, 0.0)
    return groups


def _values(row: Row, axes: Sequence[str], picture: Picture) -> list[str]:
    values = dict(zip(axes, row.values, strict=True))
    return [values[axis] for axis in picture.lines]


def _bar(row: Row, x: float) -> Bar:
    found = row.numbers(lambda result: result.figure(ACCURACY))
    middle = row.median(lambda result: result.figure(ACCURACY))
    return Bar(
        x=x,
        middle=middle or 0.0,
        low=min(found, default=0.0),
        high=max(found, default=0.0),
    )


def _place(row: Row, axes: Sequence[str], x: str) -> float | None:
    """The number of a row on the horizontal axis, if it has one."""
    if x == MACS:
        return row.median(lambda result: result.share("network_flops"))
    try:
        return float(dict(zip(axes, row.values, strict=True))[x])
    except ValueError:
        return None
