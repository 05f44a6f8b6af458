"""The processes of workers, on this machine: they share one file that is mapped into their memory.

What they do is given to their engine: a function with all that it holds, which is sent to every
process once. Then each process takes one question after the other.

The processes are those of loky, which joblib keeps. Unlike the standard library's, they do not
import the main script again, so a script that uses workers needs no guard.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from typing_extensions import override

from amc_env.agents.packing import sendable

# What workers do: from what is asked to what is found.
Work = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What was raised while a worker worked, in words.

    Attributes:
        reason: The error's own sentence.
        trace: Its traceback.
    """

    reason: str
    trace: str


class Process(ABC):
    """A process that does one piece of work at a time, here or on another machine."""

    @abstractmethod
    def submit(self, asked: object) -> "Future[Any]":
        """Begin to work on what is asked; what is found is a ``Failure`` where the work raises."""

    @abstractmethod
    def is_death(self, error: BaseException) -> bool:
        """Whether an error of a future says that the process is gone."""

    @abstractmethod
    def restart_(self) -> None:
        """Put a fresh process in place of one that is gone."""

    @abstractmethod
    def close_(self) -> None:
        """End the process, whatever it does."""


# Starts a process.
Start = Callable[[], Process]


class Engine(ABC):
    """Starts the processes that do the same work."""

    @abstractmethod
    def open_(self, work: Work, *, workers: int, threads: int) -> Start:
        """Put work, with all that it holds, where processes share it; return what starts one.

        Args:
            work: The work.
            workers: How many processes are going to run at a time.
            threads: Threads of PyTorch in each.

        Raises:
            ValueError: The work cannot be sent to another process, or there is no room for so many
                processes.
        """

    @abstractmethod
    def close_(self) -> None:
        """Remove what the processes shared."""


class LocalEngine(Engine):
    """Processes of this machine, which share a file that is mapped into their memory."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @override
    def open_(self, work: Work, *, workers: int, threads: int) -> Start:
        self._folder = tempfile.TemporaryDirectory(prefix="amc_env-")
        path = Path(self._folder.name) / "work.pt"
        write_shared(path, work)
        return partial(LocalProcess, path, threads)

    @override
    def close_(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class LocalProcess(Process):
    """A process of this machine.

    Args:
        path: The file of its work.
        threads: Threads of PyTorch in the process.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self.restart_()

    @override
    def submit(self, asked: object) -> "Future[Any]":
        try:
            return self._submitted(asked)
        except BrokenExecutor:
            # It was killed while it was idle.
            self.restart_()
            return self._submitted(asked)

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
            initargs=(os.getpid(), self._path.parent),
            # Of the mapped file ever more is in memory, which is no leak.
            env={"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18", "OMP_NUM_THREADS": str(self._threads)},
        )

    @override
    def close_(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def _submitted(self, asked: object) -> "Future[Any]":
        future: Future[Any] = self._executor.submit(_found, self._path, self._threads, asked)
        return future


def told(work: Callable[[], Any]) -> Any:
    """What a piece of work found, or why it failed.

    An error is told in words, because not every error can be sent to another process.
    """
    try:
        return work()
    except Exception as error:  # noqa: BLE001 (the process that asked raises it)
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Failure(reason=reason, trace=traceback.format_exc())


def write_shared(path: Path, thing: object) -> None:
    """Write something to a file that processes can map into their memory.

    Raises:
        ValueError: It holds something that cannot be sent to another process.
    """
    with sendable():
        torch.save(thing, path, pickle_module=cloudpickle)


def read_shared(path: Path) -> Any:
    """What is in a file, whose tensors stay in the file until they are read."""
    return torch.load(path, mmap=True, weights_only=False)


@cache
def _work(path: Path, threads: int) -> Work:
    torch.set_num_threads(threads)
    work: Work = read_shared(path)
    return work


def _found(path: Path, threads: int, asked: object) -> Any:
    """What a process of this machine runs."""
    return told(lambda: _work(path, threads)(asked))


def _begin_process(parent: int, folder: Path) -> None:
    """Leave Ctrl-C to the process that started this one, and end together with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()


def _end_with(parent: int, folder: Path) -> None:
    # A process whose parent was killed is told nothing; it has another parent then.
    while os.getppid() == parent:
        time.sleep(1.0)
    # Nobody else is left to remove it.
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
