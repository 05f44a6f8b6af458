"""A study from its first run to its table."""

from collections.abc import Callable, Sequence
from functools import partial

from amc_env.pipeline import stages
from amc_env.pipeline.command import INTERRUPTED, Job, run_jobs
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.crew import Crew
from amc_env.pipeline.lock import lock
from amc_env.pipeline.screen import say
from amc_env.studies import page
from amc_env.studies.jobs import Base, base_of, job_of, save_base, with_checkpoint
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.preparations import Preparations
from amc_env.studies.results import finished
from amc_env.studies.works import WORKS, work_on

RunJob = Callable[[Job], int]


def run_study(plan: Plan, prune: RunJob, *, crew: Crew) -> int:
    """Run what is not finished yet, and write the table; the exit status as of a sweep.

    A run that fails is named in the table's place, and the others are run. An interruption ends the
    study; the same command goes on with it.

    Args:
        plan: The study.
        prune: Runs a job that prunes a network.
        crew: How many runs go on side by side.
    """
    plan.write()
    lock(plan.folder, place=plan.folder)
    work = _work(plan, prune)
    preparations = Preparations(plan)
    pending = [run for run in preparations.in_order() if not finished([run])]
    total, done = len(plan.runs), len(plan.runs) - len(pending)
    say(f"study {plan.study.name}, {plan.order.scale}: {total} runs, {done} finished")
    run_all = _run_each if crew.workers == 1 else partial(_run_side_by_side, crew)
    status = run_all(plan, pending, preparations, work)
    if status == INTERRUPTED:
        if finished(plan.runs):
            page.write(plan)
            say(f"the table of the runs that are finished is {plan.folder / page.TABLE}.md")
        say(f"to go on with the study: {plan.order.command(plan.folder)}")
        return status
    preparations.tidy([])
    page.write(plan)
    say(f"the table is {plan.folder / page.TABLE}.md, and .csv beside it")
    return status


def _work(plan: Plan, prune: RunJob) -> RunJob:
    work = WORKS.get(plan.study.work)
    compute = work.compute if work else None
    return prune if compute is None else partial(work_on, compute, plan.options)


def _run_each(
    plan: Plan, pending: Sequence[PlannedRun], preparations: Preparations, work: RunJob
) -> int:
    """Run one after the other; the worst exit status."""
    worst, total = 0, len(plan.runs)
    for number, run in enumerate(pending):
        preparations.tidy(pending[number:])
        say(f"\nrun {total - len(pending) + number + 1} of {total}: {run.folder.name}")
        status, job = _prepared(plan, run, preparations)
        status = status or run_jobs([job], work)
        if status == INTERRUPTED:
            return status
        worst = max(worst, status)
    return worst


def _run_side_by_side(
    crew: Crew,
    plan: Plan,
    pending: Sequence[PlannedRun],
    preparations: Preparations,
    work: RunJob,
) -> int:
    """Train the base networks, then run all side by side; the worst exit status."""
    preparations.tidy(pending)
    worst, jobs = 0, []
    for run in pending:
        status, job = _prepared(plan, run, preparations)
        if status == INTERRUPTED:
            return status
        worst = max(worst, status)
        if not status:
            jobs.append(job)
    return max(worst, crew.run(jobs, work))


def _prepared(plan: Plan, run: PlannedRun, preparations: Preparations) -> tuple[int, Job]:
    """Train the run's base network, if nobody has yet; the exit status of that, and the run."""
    base, status, settings = base_of(plan, run), 0, preparations.settings_for(run)
    if base is not None:
        settings = with_checkpoint(settings, base.weights)
    if base is not None and not base.weights.exists():
        say("training the base network that runs share")
        status = run_jobs([job_of(base.folder, base.settings)], partial(_train_base, base))
    return status, job_of(run.folder, settings, run.overrides)


def _train_base(base: Base, job: Job) -> int:
    model, _ = stages.base_model(stages.start(RunConfig.of(job.settings), job.folder))
    save_base(model.state_dict(), base.weights)
    return 0
