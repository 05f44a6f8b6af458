"""The command line of ``train_agent.py``: from its arguments to jobs that can be run."""

import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from amc_env.pipeline.lock import lock
from amc_env.pipeline.output import check_output, write_error
from amc_env.pipeline.overrides import Settings
from amc_env.pipeline.resume import (
    command_to_resume,
    folder_to_resume,
    is_finished,
    settings_to_resume,
)
from amc_env.pipeline.settings_file import SETTINGS_FILE, state_of

INTERRUPTED = 130
_LONGEST_NAME = 150


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run that a command line asks for.

    Attributes:
        settings: Its configuration, names and types checked.
        folder: Where it writes; the folder is made once everything has been checked.
        overrides: The settings that the command line gives it.
        is_swept: Whether it is one of several.
    """

    settings: DictConfig
    folder: Path
    overrides: tuple[str, ...]
    is_swept: bool

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on with a run that was interrupted."""
        return self.settings.resume is not None


def read_jobs(arguments: Sequence[str], configs: Path) -> list[Job]:
    """The jobs that arguments ask for: one or, with ``-m``, one for every combination of values.

    Raises:
        ValueError: An argument is unknown or has the wrong type, or a folder is in use.
    """
    options = [argument for argument in arguments if argument.startswith("-")]
    for option in options:
        if option not in ("-m", "--multirun"):
            raise ValueError(f"there is no option {option!r}; choose -m (--multirun) or --help")
    is_sweep = bool(options)
    interrupted = folder_to_resume(arguments)
    if interrupted:
        return [_resumed(interrupted, arguments, is_sweep=is_sweep)]
    settings = Settings(configs)
    expanded = settings.expand([a for a in arguments if a not in options], is_sweep=is_sweep)
    composed = [settings.compose(list(job.values())) for job in expanded]
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    default = f"runs/{stamp}_sweep" if is_sweep else f"runs/{stamp}-{datetime.now():%f}"
    jobs = []
    for number, config in enumerate(composed):
        root = Path(str(config.folder or default))
        check_output(root)
        folder = root / _job_name(number, expanded) if is_sweep else root
        given = tuple(expanded[number].values())
        jobs.append(Job(settings=config, folder=folder, overrides=given, is_swept=is_sweep))
    return jobs


def run_jobs(jobs: Sequence[Job], run: Callable[[Job], int]) -> int:
    """Run jobs one after the other; the exit status is 0 only where none of them failed.

    A failed job of a sweep leaves ``error.json`` in its folder, and the others are run. An
    interruption ends the sweep.
    """
    worst = 0
    for job in jobs:
        # PyTorch takes seconds to load, in which there is nothing else to see.
        say_plainly(f"{'resuming the' if job.is_resumed else 'starting a'} run for {job.folder}")
        try:
            status = _run(job, run)
        except (ValueError, OSError) as error:
            status = _failed(job, str(error))
        except Exception as error:
            if not job.is_swept:
                error.add_note(_how_to_go_on(job))
                raise
            traceback.print_exc()
            status = _failed(job, f"{type(error).__name__}: {error}")
        if status == INTERRUPTED:
            say_plainly(_how_to_go_on(job))
            return status
        worst = max(worst, status)
    return worst


def begun(job: Job) -> Job:
    """A job that goes on from where its run was interrupted, if it had begun."""
    folder = job.folder
    if state_of(folder).joinpath(SETTINGS_FILE).exists():
        return replace(job, settings=settings_to_resume(folder, [], tell=say_plainly))
    # Without settings it has computed nothing yet. Anything else there is not the run's.
    shutil.rmtree(state_of(folder), ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()
    return job


def refuse(sentence: str) -> int:
    """Say what is wrong; the exit status that goes with it."""
    sys.stderr.write(f"error: {sentence}\n")
    return 1


def _resumed(folder: Path, arguments: Sequence[str], *, is_sweep: bool) -> Job:
    """The job that goes on with an interrupted run."""
    if is_sweep:
        raise ValueError("resume goes on with one run; give it without -m")
    settings = settings_to_resume(folder, arguments, tell=say_plainly)
    lock(state_of(folder), place=folder)
    return Job(settings=settings, folder=folder, overrides=(), is_swept=False)


def _run(job: Job, run: Callable[[Job], int]) -> int:
    """The exit status of a job that is run unless it is finished already."""
    if job.is_resumed and is_finished(job.folder, job.settings):
        say_plainly(f"the run in {job.folder} is finished; nothing is changed")
        return 0
    try:
        return run(job)
    except KeyboardInterrupt:
        return INTERRUPTED


def _how_to_go_on(job: Job) -> str:
    command = command_to_resume(job.folder)
    return f"to go on from here: {command}" if command else "interrupted before the run began"


def say_plainly(line: str) -> None:
    """Print a line before anything that takes long to import is imported."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _failed(job: Job, sentence: str) -> int:
    # A run that is refused leaves no folder, but a sweep's table has to name the job that failed.
    if job.is_swept or job.folder.exists():
        write_error(job.folder, sentence)
    where = f"{job.folder.name}: " if job.is_swept else ""
    command = command_to_resume(job.folder)
    then = f"; to go on from there: {command}" if command else ""
    return refuse(f"{where}{sentence}{then}")


def _job_name(number: int, expanded: Sequence[Mapping[str, str]]) -> str:
    """The number of a job of a sweep, and the settings in which the jobs differ."""
    job = expanded[number]
    differing = [text for key, text in job.items() if len({other[key] for other in expanded}) > 1]
    name = "_".join([str(number), ",".join(differing)]) if differing else str(number)
    return name.replace("/", "-")[:_LONGEST_NAME]
