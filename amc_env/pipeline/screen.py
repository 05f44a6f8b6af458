"""What a run shows in a terminal: progress while it works, a table at its end."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from torch import nn

import amc_env.agents.progress
from amc_env.metric import ACCURACY, Metric
from amc_env.pipeline.accuracies import Accuracies
from amc_env.pipeline.picture import Point

CONSOLE = Console()


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One network of the summary.

    Attributes:
        name: The agent and the stage.
        model: The network.
        accuracies: On the test data.
        flops: Multiply-accumulates for one sample.
        params: Number of parameters.
        is_kept: Whether this network is the one that the run exports.
        is_masked: Whether the cost is that of the weights without a mask; the network is as large
            and as slow as the original.
    """

    name: str
    model: nn.Module
    accuracies: Accuracies
    flops: int
    params: int
    is_kept: bool = False
    is_masked: bool = False


progress = partial(amc_env.agents.progress.progress, CONSOLE)


def say(line: str) -> None:
    """Print one line."""
    # Not broken into lines, so that a path or a command can be copied.
    CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


def working(title: str) -> AbstractContextManager[object]:
    """A line that shows while its block runs; for work whose steps cannot be counted."""
    if CONSOLE.is_terminal:
        return CONSOLE.status(f"{title} ...")
    # A log shows what a run is doing while it takes long.
    say(f"{title} ...")
    return nullcontext()


def show(
    rows: Sequence[Row], latencies: Sequence[float], *, metric: Metric = ACCURACY, title: str
) -> None:
    """Print the summary; the first row is the original network, latencies are in milliseconds."""
    notes = ["* exported"] * any(row.is_kept for row in rows)
    if any(row.is_masked for row in rows):
        notes.append("masks: MACs and parameters of the weights left; no smaller network")
    caption = "; ".join(notes) or None
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    marked = ("originals",) if rows[0].accuracies.originals is not None else ()
    for name in ("network", metric.name, *marked, "MACs", "left", "params", "left", "ms"):
        # Where there is too little room, names take several lines, and numbers stay whole.
        is_text = name == "network"
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for row, latency in zip(rows, latencies, strict=True):
        table.add_row(
            f"{row.name} *" if row.is_kept else row.name,
            metric.text(row.accuracies.whole),
            *(metric.text(row.accuracies.originals or 0.0) for _ in marked),
            _short(row.flops),
            f"{row.flops / rows[0].flops:.3f}",
            _short(row.params),
            f"{row.params / rows[0].params:.3f}",
            f"{latency:.2f}",
        )
    CONSOLE.print(table)


def show_cells(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    """Print a table; its first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def show_points(points: Sequence[Point], *, metric: Metric = ACCURACY, title: str) -> None:
    """Print the networks of several budgets; the first is the original one."""
    table = Table(title=title, title_justify="left", caption="* exported", caption_justify="left")
    for name in ("budget", "network", metric.name, "MACs", "left", "ms"):
        is_text = name in ("budget", "network")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for point, following in zip_longest(points, points[1:]):
        is_last = following is None or following.budget != point.budget
        table.add_row(
            point.budget,
            f"{point.network} *" if point.is_kept else point.network,
            metric.text(point.accuracy),
            _short(point.flops),
            f"{point.flops / points[0].flops:.3f}",
            f"{point.latency_ms:.2f}",
            end_section=is_last,
        )
    CONSOLE.print(table)


def _short(count: int) -> str:
    """A large number with a unit, short enough for a table in a narrow terminal."""
    for size, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.1f}{name}"
    return str(count)
