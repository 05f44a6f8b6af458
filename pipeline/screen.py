"""What a run shows in a terminal: bars while it works, a table at its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

CONSOLE = Console()


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One network of the summary."""

    name: str
    model: nn.Module
    accuracy: float
    flops: int
    params: int


class Advance(Protocol):
    """Moves a bar on by one and says how it stands."""

    def __call__(self, note: str) -> None:
        """One more is done."""
        ...


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Advance]:
    """A bar of ``total`` steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=CONSOLE) as bars:
        task = bars.add_task(f"{title:<22}", total=total, note="")
        yield lambda note: bars.update(task, advance=1, note=note)


def say(line: str) -> None:
    """One line."""
    CONSOLE.print(line, highlight=False)


def show(rows: Sequence[Row], latencies: Sequence[float], *, title: str) -> None:
    """The summary; the first row is the original network, latencies are in milliseconds."""
    table = Table(title=title, title_justify="left")
    for name in ("network", "accuracy", "MACs", "left", "params", "left", "latency"):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for row, latency in zip(rows, latencies, strict=True):
        table.add_row(
            row.name,
            f"{row.accuracy:.2%}",
            _short(row.flops),
            f"{row.flops / rows[0].flops:.3f}",
            _short(row.params),
            f"{row.params / rows[0].params:.3f}",
            f"{latency:.2f} ms",
        )
    CONSOLE.print(table)


def _short(count: int) -> str:
    """A great number in five digits or fewer, so that the table fits a narrow terminal."""
    for size, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.1f}{name}"
    return str(count)
