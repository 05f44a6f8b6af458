"""Candidates of a search, evaluated side by side by worker processes.

**Who decides.** Nothing but the order of the candidates. The process of the search plays the same
episodes in the same order as without workers; where an episode needs an outcome, the outcome is
there already, or waited for. Outcomes pass through the memory of the run as if they were computed
at that moment.

**Who fails.** A worker that is killed is replaced, and its candidate is evaluated again.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.cluster import RayEngine
from amc_env.agents.processes import Engine, Failure, LocalEngine, Process
from amc_env.agents.station import HELD, Answers, Station
from amc_env.env.ahead import Ahead, Request
from amc_env.memory import Compute
from amc_env.names import check_name

# What starts the processes of workers, by name.
ENGINES: Mapping[str, Callable[[], Engine]] = {"processes": LocalEngine, "ray": RayEngine}

Candidate = frozenset[tuple[str, int]]

# How often a candidate may end its worker before it is given up.
_DEATHS = 3


class WorkerError(ValueError):
    """A candidate could not be evaluated by a worker."""


@dataclass(kw_only=True, eq=False)
class _Job:
    request: Request
    answers: "Future[Answers]" = field(default_factory=Future)
    deaths: int = 0


@dataclass(kw_only=True, eq=False)
class _Seat:
    """A process, what it is on, and the candidates that it may hold partly evaluated."""

    process: Process
    job: _Job | None = None
    held: deque[Candidate] = field(default_factory=lambda: deque(maxlen=HELD))


class Workers(Ahead):
    """Evaluates the candidates of an environment ahead of their episodes.

    As a context, it takes its place in the environment, and ends its processes at the end. They are
    started when the first candidates come.

    Args:
        env: The environment. Environments that are made of it by ``with_budget`` have the workers
            too.
        workers: How many processes. Each uses its share of PyTorch's threads, one at least.
        engine: What starts the processes; those of this machine if None.

    Raises:
        ValueError: ``workers`` is less than 1, or the network is not in the memory of the CPU.
    """

    is_on = True

    def __init__(
        self, env: ChannelPruningEnv, *, workers: int, engine: "Engine | None" = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; give at least 1")
        check_device(env.data.validation.device, workers=workers)
        self._env, self._count = env, workers
        self._engine = engine or LocalEngine()
        self._seats: list[_Seat] = []
        self._queue: deque[_Job] = deque()
        self._pending: dict[str, _Job] = {}
        self._answers: dict[str, Any] = {}
        # Processes end their candidates in threads of their own. They may do so at once, within
        # the call that gave them one.
        self._lock = threading.RLock()
        self._is_closed = False

    def __enter__(self) -> "Workers":
        self._env.ahead = self
        return self

    def __exit__(self, *_: object) -> None:
        self._env.ahead = Ahead()
        with self._lock:
            self._is_closed = True
            self._queue.clear()
            # Nobody may wait for what is not going to come.
            self._pending.clear()
        for seat in self._seats:
            seat.process.close_()
        self._engine.close_()

    @override
    def expect(self, requests: Sequence[Request]) -> None:
        if not requests or self._is_closed:
            return
        with self._lock:
            self._start_()
            for request in requests:
                known = request.question in self._pending or request.question in self._answers
                if not known:
                    self._pending[request.question] = job = _Job(request=request)
                    self._queue.append(job)
            self._dispatch_()

    @override
    def drop(self) -> None:
        with self._lock:
            for job in self._queue:
                del self._pending[job.request.question]
            self._queue.clear()

    @override
    def __call__(self, what: str, compute: Compute, /) -> Any:
        job = self._pending.get(what)
        if job is not None:
            # Removed once it is there, for Ctrl-C may end the waiting.
            self._answers |= job.answers.result()
            del self._pending[what]
        return self._answers.pop(what) if what in self._answers else compute()

    @property
    def processes(self) -> list[Process]:
        """The processes that were started."""
        return [seat.process for seat in self._seats]

    def _start_(self) -> None:
        if not self._seats:
            threads = max(1, torch.get_num_threads() // self._count)
            self._env.pruner.hold_()
            station = Station(self._env.alone())
            start = self._engine.open_(station, workers=self._count, threads=threads)
            self._seats = [_Seat(process=start()) for _ in range(self._count)]

    def _dispatch_(self) -> None:
        """Give every idle process the first candidate that no other process holds."""
        for seat in self._seats:
            if seat.job is not None:
                continue
            job = next((j for j in self._queue if self._may_take(seat, j)), None)
            if job is not None:
                self._queue.remove(job)
                seat.job = job
                future = seat.process.submit(job.request)
                future.add_done_callback(partial(self._end_, seat, job))

    def _may_take(self, seat: _Seat, job: _Job) -> bool:
        candidate = _candidate(job.request)
        return candidate in seat.held or not any(candidate in s.held for s in self._seats)

    def _end_(self, seat: _Seat, job: _Job, future: "Future[Answers | Failure]") -> None:
        """Take what a process found, and give it the next candidate."""
        with self._lock:
            if self._is_closed:
                return
            seat.job = None
            error = future.exception()
            if error is None:
                self._found_(seat, job, future.result())
            elif seat.process.is_death(error):
                self._died_(seat, job)
            else:
                self._failed_(job, str(error) or type(error).__name__, error)
            self._dispatch_()

    def _found_(self, seat: _Seat, job: _Job, found: "Answers | Failure") -> None:
        if isinstance(found, Failure):
            self._failed_(job, found.reason, RuntimeError(found.trace))
            return
        candidate = _candidate(job.request)
        if job.request.samples is not None and candidate not in seat.held:
            seat.held.append(candidate)
        job.answers.set_result(found)

    def _failed_(self, job: _Job, reason: str, cause: BaseException) -> None:
        error = WorkerError(
            f"a worker could not evaluate the candidate that keeps {_words(job.request)}: {reason}"
        )
        error.__cause__ = cause
        job.answers.set_exception(error)

    def _died_(self, seat: _Seat, job: _Job) -> None:
        """Have the candidate of a process that is gone evaluated again, by a fresh one."""
        seat.held.clear()
        seat.process.restart_()
        job.deaths += 1
        if job.deaths < _DEATHS:
            self._queue.appendleft(job)
            return
        job.answers.set_exception(
            WorkerError(
                f"{_DEATHS} workers one after the other were ended from outside while they "
                f"evaluated the candidate that keeps {_words(job.request)}; if memory ran out, "
                "fewer workers need less of it"
            )
        )


def make_engine(name: str) -> Engine:
    """The engine of a name; it starts nothing yet.

    Raises:
        ValueError: There is no such engine, or it needs a package that is not installed.
    """
    check_name("engine", name, ENGINES)
    return ENGINES[name]()


def check_device(device: torch.device, *, workers: int) -> None:
    """Refuse workers for a device whose memory they cannot share.

    Raises:
        ValueError: There is more than one worker, and the device is not the CPU.
    """
    if workers > 1 and device.type != "cpu":
        raise ValueError(
            f"there are {workers} workers and the device is {device}; workers share the memory of "
            "the CPU only: give workers=1, or device=cpu"
        )


@contextmanager
def side_by_side(
    env: ChannelPruningEnv, *, workers: int, engine: str = "processes"
) -> Iterator[None]:
    """Let so many workers evaluate candidates in the block; with one, all is done in this process.

    Args:
        env: The environment.
        workers: How many processes.
        engine: ``processes`` for those of this machine, ``ray`` for those of a Ray cluster: the
            one that ``RAY_ADDRESS`` names, or else one that is started here for the block.

    Raises:
        ValueError: ``workers`` is less than 1, the network is not in the memory of the CPU, or
            there is no such engine.
    """
    made = make_engine(engine)
    if workers == 1:
        yield
        return
    with Workers(env, workers=workers, engine=made):
        yield


def _candidate(request: Request) -> Candidate:
    return frozenset(request.counts.items())


def _words(request: Request) -> str:
    return ", ".join(f"{kept} of {name}" for name, kept in request.counts.items())
