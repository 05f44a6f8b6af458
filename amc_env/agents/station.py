"""What workers of a search do: they evaluate candidates in an environment that was sent to them."""

from collections import deque
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.env.ahead import Ahead, Request
from amc_env.env.trial import Trial
from amc_env.memory import Compute

Answers = Mapping[str, Any]

# Partly evaluated networks that a process holds, because they may be evaluated on more samples.
HELD = 8


class Station:
    """What a worker holds: the environment, and the networks that it goes on with.

    Args:
        env: The environment, which belongs to the station.
    """

    def __init__(self, env: ChannelPruningEnv) -> None:
        self._env = env
        self._held = deque[Trial](maxlen=HELD)

    def __call__(self, request: Request) -> Answers:
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
