"""A run or a sweep of runs: read the settings, run the stages."""

import sys

from amc_env.pipeline import CONFIGS, together
from amc_env.pipeline.command import INTERRUPTED, Job, read_jobs, refuse
from amc_env.pipeline.crew import Crew
from amc_env.pipeline.help_text import help_text
from amc_env.pipeline.originals import Originals


def main(arguments: list[str]) -> int:
    """Run every job that the arguments ask for; the exit status."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(help_text(CONFIGS))
        return 0
    if together.is_follower():
        return together.follow()
    try:
        jobs = read_jobs(arguments, CONFIGS)
        crew = Crew.of(jobs[0].settings) if len(jobs) > 1 else Crew()
    except ValueError as error:
        return refuse(str(error))
    if crew.workers > 1 and together.launched() > 1:
        return refuse("torchrun trains single runs together; leave runs.workers out, or torchrun")
    together.begin()
    status = crew.run(jobs, Originals().known_to(run_job))
    # After a failure in the middle of a training the others still wait in it; torchrun ends them.
    if not status:
        together.dismiss()
    return status


def run_job(job: Job, originals: Originals | None = None) -> int:
    """Run the stages of one job, maybe after others; an interruption keeps what there is."""
    # The stages import PyTorch, which takes seconds; the settings are checked before that.
    from amc_env import ChannelPruningEnv
    from amc_env.pipeline import budgets, iterative, masks, report, scratch, stages, trust
    from amc_env.pipeline.config import RunConfig
    from amc_env.pipeline.finetuning import finetune
    from amc_env.pipeline.run import Run

    run = stages.start(RunConfig.of(job.settings), job.folder, job.overrides, originals)
    model, data = stages.base_model(run)
    env = stages.environment(run, model, data)

    def run_budget(run: Run, env: ChannelPruningEnv) -> dict[str, object]:
        trust.trust(run, env)
        with stages.workers(run, env):
            networks = stages.search(run, env)
            rivals = stages.compare(run, env)
        networks = iterative.realise(run, env, networks, data)
        networks = finetune(run, env, networks, data)
        rivals += scratch.from_scratch(run, networks[-1], data)
        masked = masks.mask(run, env, networks[-1], data)
        report.warn_of_rivals(run, env, networks, rivals)
        return report.finish(run, env, data, networks, rivals, masked)

    budgets.for_each(run, env, run_budget)
    return 0 if run.is_complete else INTERRUPTED
