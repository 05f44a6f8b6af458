"""What a worker process does: it evaluates candidates in an environment that was sent to it."""

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import cloudpickle
import torch
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.env.ahead import Ahead, Request
from amc_env.env.trial import Trial
from amc_env.memory import Compute
from amc_env.names import modules_of_files

Answers = Mapping[str, Any]

# Partly evaluated networks that a process holds, because they may be evaluated on more samples.
HELD = 8


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What was raised while a worker evaluated a candidate, in words.

    Attributes:
        reason: The error's own sentence.
        trace: Its traceback.
    """

    reason: str
    trace: str


class Station:
    """What a worker process holds: the environment, and the networks that it goes on with.

    Args:
        env: The environment, which belongs to the station.
        threads: Threads of PyTorch.
    """

    def __init__(self, env: ChannelPruningEnv, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._env = env
        self._held = deque[Trial](maxlen=HELD)

    def evaluate(self, request: Request) -> Answers:
        """All results that the evaluation of a candidate asks for, by what they are of."""
        heard: dict[str, Any] = {}
        self._env.ahead = _Listener(heard)
        # Whoever evaluates a candidate, and after which others, its random numbers are the same.
        torch.manual_seed(crc32(request.question.encode()))
        self._ask(request)
        return heard

    def _ask(self, request: Request) -> None:
        trial = self._env.trial(request.counts)
        # A race goes on from where it was, also where another process had come so far.
        trial.samples = max(trial.samples, request.seen)
        if request.floor is not None:
            trial.race(request.floor)
        else:
            trial.outcome(request.samples)
        if request.samples is not None and trial not in self._held:
            self._held.append(trial)


class _Listener(Ahead):
    """Keeps what is computed."""

    def __init__(self, heard: dict[str, Any]) -> None:
        self._heard = heard

    @override
    def __call__(self, what: str, compute: Compute, /) -> Any:
        result = self._heard[what] = compute()
        return result


def told(evaluate: Callable[[], Answers]) -> Answers | Failure:
    """What a candidate's evaluation found, or why it failed.

    An error is told in words, because not every error can be sent to another process.
    """
    try:
        return evaluate()
    except Exception as error:  # noqa: BLE001 (the process of the search raises it)
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Failure(reason=reason, trace=traceback.format_exc())


@contextmanager
def files_by_value() -> Iterator[None]:
    """Send the classes and functions of files that no other process can import as they are."""
    modules = modules_of_files()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
