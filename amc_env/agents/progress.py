"""How far work has come: a bar in a terminal, and a line from time to time in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from amc_env.agents.episodes import Episode, Listener
from amc_env.metric import ACCURACY, Metric

# A log that is read while it grows need not be long.
_SECONDS = 5.0


class Advance(Protocol):
    """Advances a progress display by one step."""

    def __call__(self, note: str) -> None:
        """Count one finished step and show ``note`` beside it."""
        ...


@contextmanager
def progress(console: Console, title: str, *, total: int) -> Iterator[Advance]:
    """Show how many of ``total`` steps are done, and how long the others will take."""
    if not console.is_terminal:
        yield _Lines(console, title, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(f"{title:<22}", total=total, note="")
        yield lambda note: bars.update(task, advance=1, note=note)


def following(
    advance: Advance, listener: Listener | None = None, *, metric: Metric = ACCURACY
) -> Listener:
    """A listener that shows the best episode until then, and passes every episode on."""
    best: Episode | None = None

    def tell(episode: Episode) -> None:
        nonlocal best
        best = max(best, episode, key=lambda one: one.reward) if best else episode
        if listener:
            listener(episode)
        advance(f"best reward {best.reward:.4f}, {described(metric, best.accuracy)}")

    return tell


def described(metric: Metric, value: float) -> str:
    """A value of the metric on the validation split, for people."""
    if metric == ACCURACY:
        return f"{metric.text(value)} of validation images right"
    return f"{metric.name} {metric.text(value)}"


class _Lines:
    """A line after the first step, every few seconds, and after the last."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._done = 0
        self._started = time.monotonic()
        self._shown = float("-inf")

    def __call__(self, note: str) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done < self._total and now - self._shown < _SECONDS:
            return
        self._shown = now
        left = (now - self._started) / self._done * (self._total - self._done)
        rest = f", about {left:.0f} s left" if self._done < self._total else ""
        line = f"{self._title}: {self._done} of {self._total}, {note}{rest}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
