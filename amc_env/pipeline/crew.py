"""The runs of a sweep or a study side by side, each in a process of its own."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import INTERRUPTED, Job, begun, refuse, run_jobs, say_plainly
from amc_env.pipeline.overrides import Settings

if TYPE_CHECKING:
    from amc_env.agents.processes import Process

# PyTorch takes seconds to import, and so do the engines, which are imported when there are jobs.

_KEYS = ("runs.workers", "runs.engine")

# How often a run may end its process before it is given up.
_DEATHS = 3

RunJob = Callable[[Job], int]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How many runs go on side by side, and what starts their processes.

    Attributes:
        workers: How many. One is run by this process.
        engine: The name of an engine of :mod:`amc_env.agents.workers`.

    Raises:
        ValueError: ``workers`` is less than 1.
    """

    workers: int = 1
    engine: str = "processes"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"runs.workers is {self.workers}; give at least 1")

    @classmethod
    def of(cls, settings: DictConfig) -> "Crew":
        """What the settings of a run ask for."""
        return cls(workers=settings.runs.workers, engine=settings.runs.engine)

    @classmethod
    def taken(cls, arguments: Sequence[str]) -> "tuple[Crew, list[str]]":
        """The crew that a command line asks for, and its other arguments.

        Raises:
            ValueError: A value has the wrong type.
        """
        own = [text for text in arguments if text.partition("=")[0] in _KEYS]
        crew = cls.of(Settings(CONFIGS).compose(own)) if own else cls()
        return crew, [text for text in arguments if text not in own]

    def run(self, jobs: Sequence[Job], run: RunJob) -> int:
        """Run jobs; the exit status as of ``run_jobs``.

        Side by side, each run writes what it has to say to a file beside its folder.
        """
        if min(self.workers, len(jobs)) <= 1:
            return run_jobs(jobs, run)
        try:
            return self._run_side_by_side(jobs, run)
        except ValueError as error:
            return refuse(str(error))
        except KeyboardInterrupt:
            say_plainly("interrupted; a run that had begun goes on by resume=FOLDER")
            return INTERRUPTED

    def _run_side_by_side(self, jobs: Sequence[Job], run: RunJob) -> int:
        from amc_env.agents.workers import make_engine

        engine, count = make_engine(self.engine), min(self.workers, len(jobs))
        # The settings of a run say how many threads it has; where they leave it open, it has one.
        threads = max(job.settings.threads for job in jobs) or 1
        work = partial(_run_alone, run, Path.cwd())
        try:
            start = engine.open_(work, workers=count, threads=threads)
            return _Shift(jobs, [start() for _ in range(count)]).run()
        finally:
            engine.close_()


class _Shift:
    """The jobs that are left, and the processes that take one after the other."""

    def __init__(self, jobs: Sequence[Job], processes: "Sequence[Process]") -> None:
        self._left = deque(jobs)
        self._processes = processes
        # Nothing may be started while the processes are ended, nor afterwards.
        self._lock = threading.Lock()
        self._is_over = False

    def run(self) -> int:
        """The worst exit status of all jobs, once they are done; an interruption ends them."""
        with ThreadPoolExecutor(len(self._processes)) as pool:
            serving = [pool.submit(self._serve, process) for process in self._processes]
            try:
                # Ctrl-C does not wake a waiting thread where a library restarts system calls.
                while not _are_over(serving):
                    continue
                return max(each.result() for each in serving)
            finally:
                self._end_()

    def _end_(self) -> None:
        with self._lock:
            self._is_over = True
            self._left.clear()
            for process in self._processes:
                process.close_()

    def _serve(self, process: "Process") -> int:
        worst = 0
        while (job := self._next()) is not None:
            say_plainly(f"starting a run for {job.folder}, which writes to {_log_of(job)}")
            worst = max(worst, self._status(process, job))
        return worst

    def _next(self) -> Job | None:
        with self._lock:
            return self._left.popleft() if self._left else None

    def _status(self, process: "Process", job: Job) -> int:
        """The exit status of a job; where its process was killed, a fresh one goes on with it."""
        for death in range(_DEATHS):
            future = self._submitted(process, begun(job) if death else job)
            if future is None:
                return INTERRUPTED
            error = future.exception()
            if error is None:
                return _judged(job, future.result())
            if not (self._is_over or process.is_death(error)):
                raise error
            with self._lock:
                if not self._is_over:
                    process.restart_()
        return refuse(
            f"{job.folder.name}: {_DEATHS} processes one after the other were ended from outside; "
            "if memory ran out, a smaller runs.workers needs less of it"
        )

    def _submitted(self, process: "Process", job: Job) -> "Future[Any] | None":
        with self._lock:
            return None if self._is_over else process.submit(job)


def _are_over(serving: "Sequence[Future[int]]") -> bool:
    """Whether all are done, or one has failed; waits for that for a second at most."""
    done, left = wait(serving, timeout=1.0, return_when=FIRST_EXCEPTION)
    return not left or any(each.exception() for each in done)


def _run_alone(run: RunJob, here: Path, job: Job) -> int:
    """Run a job in a process that may have begun in another folder; its exit status."""
    os.chdir(here)
    path = _log_of(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        return run_jobs([job], run)


def _judged(job: Job, found: Any) -> int:
    """The exit status that a process found, or 1 where it found none; a line says which."""
    from amc_env.agents.processes import Failure

    if isinstance(found, Failure):
        return refuse(f"{job.folder.name}: {found.reason}")
    status: int = found
    if status:
        return max(status, refuse(f"{job.folder.name}: the run failed; {_log_of(job)} says why"))
    say_plainly(f"finished the run for {job.folder}")
    return 0


def _log_of(job: Job) -> Path:
    return job.folder.with_name(f"{job.folder.name}.log")
