"""The processes of workers, on this machine: they share one file that is mapped into their memory.

The processes are those of loky, which joblib keeps. Unlike the standard library's, they do not
import the main script again, so a script that uses workers needs no guard.
"""

import os
import signal
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from functools import cache, partial
from pathlib import Path

import cloudpickle
import torch
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.station import Answers, Failure, Station, files_by_value, told
from amc_env.env.ahead import Request


class Process(ABC):
    """A process that evaluates one candidate at a time, here or on another machine."""

    @abstractmethod
    def submit(self, request: Request) -> "Future[Answers | Failure]":
        """Begin to evaluate a candidate."""

    @abstractmethod
    def is_death(self, error: BaseException) -> bool:
        """Whether an error of a future says that the process is gone."""

    @abstractmethod
    def restart_(self) -> None:
        """Put a fresh process in place of one that is gone."""

    @abstractmethod
    def close_(self) -> None:
        """End the process, whatever it does."""


# Starts a process that uses so many threads.
Start = Callable[[int], Process]


class Engine(ABC):
    """Starts the processes of one environment."""

    @abstractmethod
    def open_(self, env: ChannelPruningEnv) -> Start:
        """Put an environment where processes share it, and return what starts one.

        Raises:
            ValueError: The environment cannot be sent to another process.
        """

    @abstractmethod
    def close_(self) -> None:
        """Remove what the processes shared."""


class LocalEngine(Engine):
    """Processes of this machine, which share a file that is mapped into their memory."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @override
    def open_(self, env: ChannelPruningEnv) -> Start:
        self._folder = tempfile.TemporaryDirectory(prefix="amc_env-")
        path = Path(self._folder.name) / "environment.pt"
        write_shared(path, env)
        return partial(LocalProcess, path)

    @override
    def close_(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class LocalProcess(Process):
    """A process of this machine.

    Args:
        path: The file of the environment.
        threads: Threads of PyTorch in the process.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self.restart_()

    @override
    def submit(self, request: Request) -> "Future[Answers | Failure]":
        try:
            return self._submitted(request)
        except BrokenExecutor:
            # It was killed while it was idle.
            self.restart_()
            return self._submitted(request)

    @override
    def is_death(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    @override
    def restart_(self) -> None:
        from loky.backend import get_context
        from loky.process_executor import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(
            max_workers=1,
            context=get_context("loky"),
            initializer=_begin_process,
            initargs=(os.getpid(),),
            # Of the mapped file ever more is in memory, which is no leak.
            env={"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18", "OMP_NUM_THREADS": str(self._threads)},
        )

    @override
    def close_(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def _submitted(self, request: Request) -> "Future[Answers | Failure]":
        future: Future[Answers | Failure] = self._executor.submit(
            _evaluated, self._path, self._threads, request
        )
        return future


def write_shared(path: Path, env: ChannelPruningEnv) -> None:
    """Write an environment to a file that processes can map into their memory.

    Raises:
        ValueError: It holds something that cannot be sent to another process.
    """
    try:
        with files_by_value():
            torch.save(env, path, pickle_module=cloudpickle)
    # Whatever is refused may be of a user's own class, which raises what it likes.
    except Exception as error:
        raise ValueError(
            f"the environment cannot be sent to workers: {error}; give workers=1, or a model, "
            "reward and task that can be pickled"
        ) from error


def read_shared(path: Path) -> ChannelPruningEnv:
    """The environment of a file, whose tensors stay in the file until they are read."""
    env: ChannelPruningEnv = torch.load(path, mmap=True, weights_only=False)
    return env


@cache
def _station(path: Path, threads: int) -> Station:
    return Station(read_shared(path), threads=threads)


def _evaluated(path: Path, threads: int, request: Request) -> Answers | Failure:
    """What a process of this machine runs."""
    return told(lambda: _station(path, threads).evaluate(request))


def _begin_process(parent: int) -> None:
    """Leave Ctrl-C to the process of the search, and end together with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    # A process whose parent was killed is told nothing; it has another parent then.
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
