"""The picture of a run with several budgets: the task's metric against multiply-accumulates."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from amc_env.metric import ACCURACY, Metric

ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network of a run with several budgets.

    Attributes:
        budget: The setting of its budget; empty for the original network.
        network: The agent and the stage, or ``original``.
        accuracy: The task's metric on the test data.
        flops: Multiply-accumulates for one sample.
        latency_ms: Milliseconds for one batch.
        is_kept: Whether this network is the one that was exported for its budget.
    """

    budget: str
    network: str
    accuracy: float
    flops: int
    latency_ms: float
    is_kept: bool = False


def save_picture(points: Sequence[Point], stem: Path, *, metric: Metric = ACCURACY) -> None:
    """Draw networks as ``stem`` with the endings ``.png`` and ``.svg``: a line for every name.

    The same points give the same files.
    """
    # Takes a second to import, which the many runs without a picture need not spend. A figure
    # without pyplot needs no screen and leaves no state behind.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, PercentFormatter

    from amc_env.report.figures import save_figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="multiply-accumulates for one sample", ylabel=f"{metric.name} on the test data"
    )
    by_name = sorted(points, key=lambda point: (point.network != ORIGINAL, point.network))
    for name, members in groupby(by_name, key=lambda point: point.network):
        line = sorted(members, key=lambda point: point.flops)
        xs, ys = [point.flops for point in line], [point.accuracy for point in line]
        is_original = name == ORIGINAL
        color, marker = ("black", "*") if is_original else (None, "o")
        axes.plot(xs, ys, color=color, marker=marker, label=name, gid=name.replace(", ", "-"))
        if is_original:
            axes.axhline(ys[0], color="black", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_formatter(EngFormatter())
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, stem)
