"""What a search leaves behind: its episodes, and the best of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from torch import nn
from typing_extensions import override

from amc_env import ChannelPruningEnv, Policy
from amc_env.env.environment import Action, Observation


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One finished episode.

    Attributes:
        number: Counted from 1.
        reward: What it was paid.
        accuracy: Of the compact, repaired network on the mini split.
        flops_ratio: Multiply-accumulates left, of the original's.
        params_ratio: Parameters left.
        counts: How many channels each group keeps.
        sparsities: The executed sparsity of each group, in order.
        seconds: What it took, by phase; zeros where the policy was known already.
        reward_parts: The rewards that a sum is made of.
        at_seconds: When it ended, from the start of the search.
    """

    number: int
    reward: float
    accuracy: float
    flops_ratio: float
    params_ratio: float
    counts: dict[str, int]
    sparsities: tuple[float, ...]
    seconds: dict[str, float]
    reward_parts: dict[str, float]
    at_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """The answer of a search.

    Attributes:
        policy: The best policy seen.
        compact: The network that it makes, repaired.
        best: The episode that found it.
        episodes: All episodes in order.
        seconds: How long the search took.
        is_complete: Whether it went to its end; False if it was interrupted.
    """

    policy: Policy
    compact: nn.Module
    best: Episode
    episodes: tuple[Episode, ...]
    seconds: float
    is_complete: bool


Listener = Callable[[Episode], None]


class Recorder(gym.Wrapper[Observation, Action, Observation, Action]):
    """Notes every episode of a pruning environment, whoever plays it."""

    def __init__(
        self,
        env: ChannelPruningEnv,
        *,
        on_episode: Listener | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(env)
        self.log = log
        self.pruning = env
        self.episodes: list[Episode] = []
        self._listener = on_episode
        self._sparsities: list[float] = []
        self._started = time.perf_counter()

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._sparsities = []
        return super().reset(seed=seed, options=options)

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(action)
        self._sparsities.append(info["executed"])
        if terminated:
            self._note(float(reward), info)
        return seen, reward, terminated, truncated, info

    def play(self, actions: Sequence[float]) -> Episode:
        """Run one episode with one action for each group."""
        self.reset()
        for action in actions:
            self.step(np.array([action], dtype=np.float32))
        return self.episodes[-1]

    def play_counts(self, counts: Mapping[str, int]) -> Episode:
        """Run one episode that keeps these numbers of channels, as far as the budget allows."""
        return self.play(self.actions_for(counts))

    def actions_for(self, counts: Mapping[str, int]) -> list[float]:
        """The actions that ask for these numbers of channels."""
        groups = self.pruning.graph.groups
        # Half a channel away from where rounding turns, for actions are in single precision.
        return [1.0 - (counts[g.name] - 0.5) / g.channels for g in groups]

    @property
    def seconds(self) -> float:
        """Since the recording began."""
        return time.perf_counter() - self._started

    def result(self, *, seed: int, is_complete: bool) -> SearchResult:
        """The search that these episodes are; of equal rewards, the first.

        Raises:
            ValueError: There is no episode.
        """
        if not self.episodes:
            raise ValueError("the search ended before its first episode; there is no policy")
        best = max(self.episodes, key=lambda episode: episode.reward)
        return SearchResult(
            policy=self.pruning.policy(best.counts, seed=seed),
            compact=self.pruning.pruner.prune(best.counts).model,
            best=best,
            episodes=tuple(self.episodes),
            seconds=self.seconds,
            is_complete=is_complete,
        )

    def _note(self, reward: float, info: dict[str, Any]) -> None:
        episode = Episode(
            number=len(self.episodes) + 1,
            reward=reward,
            accuracy=info["accuracy"],
            flops_ratio=info["flops_ratio"],
            params_ratio=info["params_ratio"],
            counts=info["counts"],
            sparsities=tuple(self._sparsities),
            seconds=info["seconds"],
            reward_parts=info["reward_parts"],
            at_seconds=self.seconds,
        )
        self.episodes.append(episode)
        if self._listener:
            self._listener(episode)
