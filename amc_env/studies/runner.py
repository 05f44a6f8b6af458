"""A study from its first run to its table."""

from collections.abc import Callable
from functools import partial

from omegaconf import DictConfig

from amc_env.pipeline import stages
from amc_env.pipeline.command import INTERRUPTED, Job, run_jobs
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.lock import lock
from amc_env.pipeline.screen import say
from amc_env.studies import page
from amc_env.studies.jobs import Base, base_of, job_of, save_base, with_checkpoint
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.preparations import Preparations
from amc_env.studies.results import finished
from amc_env.studies.works import WORKS, work_on

RunJob = Callable[[Job], int]


def run_study(plan: Plan, prune: RunJob) -> int:
    """Run what is not finished yet, and write the table; the exit status as of a sweep.

    A run that fails is named in the table's place, and the others are run. An interruption ends the
    study; the same command goes on with it.

    Args:
        plan: The study.
        prune: Runs a job that prunes a network.
    """
    plan.write()
    lock(plan.folder)
    work = _work(plan, prune)
    preparations = Preparations(plan)
    pending = [run for run in preparations.in_order() if not finished([run])]
    total, done = len(plan.runs), len(plan.runs) - len(pending)
    say(f"study {plan.study.name}, {plan.order.scale}: {total} runs, {done} finished")
    worst = 0
    for number, run in enumerate(pending):
        preparations.tidy(pending[number:])
        say(f"\nrun {done + number + 1} of {total}: {run.folder.name}")
        status = _run(plan, run, preparations.settings_for(run), work)
        if status == INTERRUPTED:
            say(f"to go on with the study: {plan.order.command(plan.folder)}")
            return status
        worst = max(worst, status)
    preparations.tidy([])
    page.write(plan)
    say(f"the table is {plan.folder / page.TABLE}.md, and .csv beside it")
    return worst


def _work(plan: Plan, prune: RunJob) -> RunJob:
    work = WORKS.get(plan.study.work)
    compute = work.compute if work else None
    return prune if compute is None else partial(work_on, compute, plan.options)


def _run(plan: Plan, run: PlannedRun, settings: DictConfig, work: RunJob) -> int:
    """Train the run's base network, if nobody has yet, and run it; the exit status."""
    base = base_of(plan, run)
    if base is not None and not base.weights.exists():
        say("training the base network that runs share")
        job = job_of(base.folder, base.settings)
        status = run_jobs([job], partial(_train_base, base))
        if status:
            return status
    if base is not None:
        settings = with_checkpoint(settings, base.weights)
    return run_jobs([job_of(run.folder, settings, run.overrides)], work)


def _train_base(base: Base, job: Job) -> int:
    model, _ = stages.base_model(stages.start(RunConfig.of(job.settings), job.folder))
    save_base(model.state_dict(), base.weights)
    return 0
