"""The main command: a study, a single run, or a sweep of runs."""

import signal

from amc_env.pipeline import main as runs
from amc_env.pipeline.command import refuse
from amc_env.studies.plan import is_study, read_plan


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    if not is_study(arguments):
        return runs.main(arguments)
    try:
        plan = read_plan(arguments)
        # PyTorch takes seconds to import; the settings are checked before that.
        from amc_env.studies.runner import run_study

        return run_study(plan, runs.run_job)
    except ValueError as error:
        return refuse(str(error))


def command(arguments: list[str]) -> int:
    """``main`` for a process of its own: whoever ends it gets what Ctrl-C gets."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return main(arguments)
