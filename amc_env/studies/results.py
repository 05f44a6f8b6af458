"""What the finished runs of a study left, row by row."""

import csv
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amc_env.pipeline.accuracies import PREDICTIONS_FILE
from amc_env.pipeline.picture import ORIGINAL
from amc_env.pipeline.resume import is_finished
from amc_env.pipeline.table import RunRecord, read_run
from amc_env.studies.intervals import Booleans
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.study import STAGE

# In the cell of a figure that there is not.
NOTHING = "-"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One network of one finished run.

    Attributes:
        values: The values of the axes, that of several stages too.
        seed: Of the run.
        stage: The stage that left the network, or ``original``.
        record: The run.
        folder: Its folder.
    """

    values: Mapping[str, str]
    seed: int
    stage: str
    record: RunRecord
    folder: Path

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The figures of the run."""
        return self.record.metrics

    @property
    def network(self) -> str:
        """What the run calls the network."""
        own = f"{self.metrics['agent']}, {self.stage}"
        return own if own in self.metrics["test_accuracies"] else self.stage

    @property
    def exists(self) -> bool:
        """Whether the run has such a network."""
        return self.network in self.metrics["test_accuracies"]

    @property
    def is_original(self) -> bool:
        """Whether it is the network before pruning."""
        return self.stage == ORIGINAL

    def figure(self, key: str) -> float | None:
        """A figure of the network from one of the tables by network in ``metrics.json``."""
        found: float | None = self.metrics.get(key, {}).get(self.network)
        return found

    def share(self, key: str) -> float:
        """The same, relative to the original network's."""
        figures = self.metrics[key]
        share: float = figures[self.network] / figures[ORIGINAL]
        return share

    def correct(self) -> Booleans:
        """Which test images the network classifies correctly."""
        with (self.folder / PREDICTIONS_FILE).open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        label, own = header.index("label"), header.index(self.network)
        return np.array([line[label] == line[own] for line in lines])


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The networks of a row of the table, one for each seed.

    Attributes:
        values: The values of the axes.
        results: The networks, by ascending seed.
    """

    values: tuple[str, ...]
    results: tuple[Result, ...]

    @property
    def is_original(self) -> bool:
        """Whether it is a network before pruning."""
        return self.results[0].is_original

    def numbers(self, of: Callable[[Result], float | None]) -> list[float]:
        """A figure of every network that has it."""
        return [found for found in map(of, self.results) if found is not None]

    def median(self, of: Callable[[Result], float | None]) -> float | None:
        """The median over seeds; None where no network has the figure."""
        found = self.numbers(of)
        return statistics.median(found) if found else None


def finished(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that have ended by themselves."""
    return [run for run in runs if is_finished(run.folder, run.settings)]


def read_rows(plan: Plan) -> list[Row]:
    """The rows of the table: the original networks, then a row for every values of the axes."""
    axes = list(plan.study.axes_at(plan.scale))
    originals: dict[tuple[str, str], list[Result]] = {}
    rows: dict[tuple[str, ...], list[Result]] = {}
    for run in finished(plan.runs):
        record = read_run(run.folder, plan.folder)
        # Runs of a network on the same data have the same original; the first stands for all.
        network = (record.metrics["model"], record.metrics["data"])
        originals.setdefault(network, [_result(run, record, ORIGINAL)])
        for stage in plan.study.networks:
            found = _result(run, record, stage)
            # Rows without a search have no networks with masks, for one.
            if found.exists:
                rows.setdefault(tuple(found.values[axis] for axis in axes), []).append(found)
    first = [
        Row(
            values=(_original_title(name, originals), *[NOTHING] * (len(axes) - 1)),
            results=tuple(own),
        )
        for name, own in originals.items()
    ]
    return first + [Row(values=values, results=tuple(own)) for values, own in rows.items()]


def _original_title(network: tuple[str, str], originals: Iterable[tuple[str, str]]) -> str:
    """What an original network is called, with its name or data where there are several."""
    each = zip(network, zip(*originals, strict=True), strict=True)
    differing = [own for own, known in each if len({*known}) > 1]
    return " ".join([ORIGINAL, ", ".join(differing)]).strip()


def _result(run: PlannedRun, record: RunRecord, stage: str) -> Result:
    return Result(
        values={**run.cell.values, STAGE: stage},
        seed=run.cell.seed,
        stage=stage,
        record=record,
        folder=run.folder,
    )
