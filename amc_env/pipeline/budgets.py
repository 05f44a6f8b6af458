"""Several budgets in one run: one calibration, and one search after the other."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from amc_env import ChannelPruningEnv
from amc_env.pipeline import report
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.run import Run
from amc_env.pipeline.screen import say

OneBudget = Callable[[Run, ChannelPruningEnv], Mapping[str, Any]]


def for_each(run: Run, env: ChannelPruningEnv, run_one: OneBudget) -> None:
    """Run the stages from the search on for every budget of a run, the greatest first.

    A single budget has the run and its folder to itself. Of several, each has a folder in the run's
    folder, and the environments share all that does not depend on the budget. The figures and the
    picture of all finished budgets are written anew after each of them, so that whatever ends the
    run leaves them; an interruption ends the run after the budget that it came in.

    Args:
        run: The run.
        env: Its environment.
        run_one: Runs the stages for one budget and returns its figures.

    Raises:
        KeyboardInterrupt: The run was interrupted before anything was found at its first budget.
    """
    configs = run.config.each_budget()
    if len(configs) == 1:
        run_one(run, env)
        _close(run)
        return
    say(f"one search for each of {len(configs)} budgets, in this order: {', '.join(configs)}")
    finished: dict[str, Mapping[str, Any]] = {}
    try:
        for name, config in configs.items():
            say(f"\n{name}")
            part = _part(run, name, config)
            finished[name] = run_one(part, env.with_budget(run.parts.budgets[name]))
            run.is_complete &= part.is_complete
            report.write_together(run, finished)
            if not run.is_complete:
                break
    except KeyboardInterrupt:
        if not finished:
            raise
        run.is_complete = False
    report.show_together(run, finished)
    _close(run)


def _close(run: Run) -> None:
    if run.is_complete:
        run.folder.forget_state()


def _part(run: Run, name: str, config: RunConfig) -> Run:
    """The part of a run that has one of its budgets; its folder is opened."""
    key = name.partition("=")[0]
    others = [text for text in run.overrides if text.lstrip("+").partition("=")[0] != key]
    part = replace(
        run,
        config=config,
        parts=replace(run.parts, budgets={"": run.parts.budgets[name]}),
        folder=run.folder.part(name),
        overrides=(*others, name),
        started=time.perf_counter(),
    )
    part.folder.open_(config.as_plain())
    return part
