"""A piece of work that a study does on a network: what it computes, and how it is shown."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from amc_env import ChannelPruningEnv
from amc_env.data.datasets import Dataset
from amc_env.pipeline import stages
from amc_env.pipeline.command import Job
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.run import Run
from amc_env.pipeline.table import read_run
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.results import NOTHING, finished
from amc_env.trust import bootstrap_interval, rank_correlation

Options = Mapping[str, Any]
Found = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a piece of work has to work on.

    Attributes:
        run: The run, whose journal keeps results.
        env: The network with its calibration.
        data: The data, of which test images are for measuring alone.
    """

    run: Run
    env: ChannelPruningEnv
    data: Dataset


Compute = Callable[[Bench, Options], Found]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kind of work.

    Attributes:
        compute: The figures of one run, for its ``metrics.json``; None if runs prune a network.
        table: The table of all finished runs of a study.
        draw: Draws the pictures and yields their paths, without endings.
        legend: What stands below the table.
    """

    compute: Compute | None
    table: Callable[[Plan], Table]
    draw: Callable[[Plan], Iterator[Path]]
    legend: str


def work_on(compute: Compute, options: Options, job: Job) -> int:
    """Do the work of one run; the exit status."""
    run = stages.start(RunConfig.of(job.settings), job.folder, job.overrides)
    model, data = stages.base_model(run)
    env = stages.environment(run, model, data)
    figures = compute(Bench(run=run, env=env, data=data), options)
    facts = {"model": run.parts.names["model"], "seed": run.config.seed, "is_complete": True}
    run.folder.write_metrics({**figures, **facts, "seconds": time.perf_counter() - run.started})
    return 0


def figures_of(plan: Plan) -> Iterator[tuple[PlannedRun, Found]]:
    """The figures of all finished runs."""
    for run in finished(plan.runs):
        yield run, dict(read_run(run.folder, plan.folder).metrics)


def correlation(first: Sequence[float], second: Sequence[float]) -> str:
    """Spearman's rank correlation with its bootstrap interval, as a cell of a table."""
    value = rank_correlation(first, second)
    if isnan(value):
        return NOTHING
    low, high = bootstrap_interval(first, second)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def kept(bench: Bench, what: str, compute: Callable[..., Any], *given: Any) -> Any:
    """A result from the run's journal, or else computed."""
    return bench.run.journal(what, partial(compute, *given))
