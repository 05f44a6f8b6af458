"""The main command: a study, a single run, or a sweep of runs."""

import signal
from collections.abc import Sequence

from amc_env.pipeline import main as runs
from amc_env.pipeline import together
from amc_env.pipeline.command import refuse
from amc_env.pipeline.originals import Originals
from amc_env.pipeline.resume import folder_to_resume
from amc_env.studies import PLAN_FILE


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    if not is_study(arguments):
        return runs.main(arguments)
    if together.launched() > 1:
        return refuse("torchrun trains single runs together, and no studies; start it without")
    # What only studies need is imported here, and PyTorch, which takes seconds, after the check.
    from amc_env.pipeline.crew import Crew
    from amc_env.studies.plan import read_plan

    try:
        crew, others = Crew.taken(arguments)
        plan = read_plan(others)
        from amc_env.studies.runner import run_study

        return run_study(plan, Originals().known_to(runs.run_job), crew=crew)
    except ValueError as error:
        return refuse(str(error))


def is_study(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a study, or for one to go on."""
    resumed = folder_to_resume(arguments)
    is_begun = resumed is not None and (resumed / PLAN_FILE).is_file()
    return is_begun or any(text.startswith("study=") for text in arguments)


def command(arguments: list[str]) -> int:
    """``main`` for a process of its own: whoever ends it gets what Ctrl-C gets."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return main(arguments)
