"""What a search leaves behind: its episodes, and the best of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from torch import nn
from typing_extensions import override

from amc_env import ChannelPruningEnv, Policy
from amc_env.env.environment import Action, Observation
from amc_env.env.realise import realise
from amc_env.metric import ACCURACY, Metric

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One finished episode.

    Attributes:
        number: Number of the episode in its search, counted from 1.
        reward: The reward of the compact, repaired network. If the evaluation was stopped early,
            it is an upper bound, which is less than the greatest reward until then.
        accuracy: The task's metric of that network on the validation samples that were evaluated;
            of a classification the top-1 accuracy.
        flops_ratio: Its multiply-accumulates, relative to the original network's.
        params_ratio: Its parameters, relative to the original network's.
        counts: How many channels each group keeps.
        sparsities: The executed sparsity of each group, in order.
        seconds: Duration of each phase; zeros if an earlier episode had the same policy.
        samples: How many validation samples were evaluated.
        reward_parts: The rewards that a weighted sum is made of, by name.
        at_seconds: Seconds from the start of the search to the end of the episode.
    """

    number: int
    reward: float
    accuracy: float
    flops_ratio: float
    params_ratio: float
    counts: dict[str, int]
    sparsities: tuple[float, ...]
    seconds: dict[str, float]
    samples: int
    reward_parts: dict[str, float]
    at_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What a search has found.

    Attributes:
        policy: The policy of the greatest reward.
        compact: The compact network of that policy, repaired.
        best: The episode that found the policy.
        episodes: All finished episodes in order.
        evaluations: What the search spent, in evaluations of all validation samples: an evaluation
            of a part of them counts as that part.
        seconds: Duration of the search.
        is_complete: Whether the search ran to its end; False if it was interrupted or failed.
        metric: What the accuracies of its episodes are.
    """

    policy: Policy
    compact: nn.Module
    best: Episode
    episodes: tuple[Episode, ...]
    evaluations: float
    seconds: float
    is_complete: bool
    metric: Metric = ACCURACY

    @override
    def __repr__(self) -> str:
        """A short summary with a line for each group; modules and episodes are left out."""
        best = self.best
        head = (
            f"{self.policy.model}: {best.flops_ratio:.3f} of the MACs and {best.params_ratio:.3f} "
            f"of the parameters are left; {self._judgement}, "
            f"reward {best.reward:.4f}, episode {best.number} of {len(self.episodes)}, "
            f"{self.seconds:.0f} s"
        )
        rows = [(g.name, f"{len(g.kept)} of {g.channels}") for g in self.policy.groups]
        width = max(len(name) for name, _ in rows)
        return "\n".join([head, *(f"  {name:<{width}}  {kept}" for name, kept in rows)])

    @property
    def _judgement(self) -> str:
        """The best episode's metric in words."""
        value = self.metric.text(self.best.accuracy)
        if self.metric == ACCURACY:
            return f"{value} of the validation images are right"
        return f"{self.metric.name} {value} on the validation samples"

    def realised(self, env: ChannelPruningEnv, *, finalists: int = 5) -> "SearchResult":
        """This result with its best policy repaired layer by layer; see :func:`realise`.

        Where the settings of the environment repair nothing, the best policy is only cut.

        Args:
            env: The environment of the search.
            finalists: How many of the best policies are repaired so. The one whose repaired network
                has the greatest reward on the selection split becomes the result's; of equal
                rewards, the one that the search ranked first.

        Raises:
            ValueError: ``finalists`` is less than 1.
        """
        if finalists < 1:
            raise ValueError(f"finalists is {finalists}; give at least 1")
        candidates = self._best(finalists)
        chosen, compact = realise(env, [episode.counts for episode in candidates])
        best = candidates[chosen]
        policy = env.policy(best.counts, seed=self.policy.seed)
        return replace(self, policy=policy, compact=compact, best=best)

    def _best(self, count: int) -> list[Episode]:
        """Wholly evaluated episodes of different policies, the greatest reward first."""
        whole = [episode for episode in self.episodes if episode.samples == self.best.samples]
        ordered = sorted(whole, key=lambda episode: -episode.reward)
        distinct = {tuple(sorted(e.counts.items())): e for e in reversed(ordered)}
        return sorted(distinct.values(), key=lambda e: (-e.reward, e.number))[:count]


# An episode whose numbers of channels are planned, and are not to be scaled.
EXACTLY: Mapping[str, Any] = {"budgeting": "clip"}

# So many candidates are rehearsed at once: workers have the next ones before they are done with
# these, and the first ones need not wait until all are rehearsed.
_EXPECTED = 16

Listener = Callable[[Episode], None]


class Recorder(gym.Wrapper[Observation, Action, Observation, Action]):
    """Keeps every finished episode of a pruning environment.

    Args:
        env: The environment.
        on_episode: Called with every episode as soon as it is finished.
        log: Folder in which a searcher may write its learning curves.
        start: Numbers of channels that a searcher may begin from. More than the budget allows are
            reduced by one sparsity for all.

    Attributes:
        pruning: The environment, without this wrapper.
        episodes: The finished episodes in order.
        screened: How many validation samples were evaluated for networks that became no episode. A
            searcher that screens adds to it.
        log: The folder; None if no curves are wanted.
        start: The numbers to begin from, within the budget; None if there are none.

    Raises:
        ValueError: ``start`` names a group that does not exist.
    """

    def __init__(
        self,
        env: ChannelPruningEnv,
        *,
        on_episode: Listener | None = None,
        log: Path | None = None,
        start: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(env)
        self.pruning = env
        self.log = log
        self.start = env.keeper.scaled(start) if start else None
        self.episodes: list[Episode] = []
        self.screened = 0
        self._listener = on_episode
        self._started = time.perf_counter()

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(action)
        if terminated:
            self._note(float(reward), info)
        return seen, reward, terminated, truncated, info

    def play(self, actions: Sequence[float], *, floor: float | None = None) -> Episode:
        """Play one episode with one action for each group, and return it.

        With ``floor``, the evaluation stops as soon as the reward cannot reach it any more.

        Raises:
            ValueError: A floor is given, but the reward has no upper bound.
        """
        return self._play(actions, {} if floor is None else {"floor": floor})

    def play_counts(self, counts: Mapping[str, int], *, floor: float | None = None) -> Episode:
        """Play one episode that keeps these numbers of channels, as far as the budget allows."""
        options = {**EXACTLY} | ({} if floor is None else {"floor": floor})
        return self._play(self.actions_for(counts), options)

    def play_all(
        self, candidates: Sequence[Sequence[float]], *, floor: float | None = None
    ) -> list[Episode]:
        """Play an episode for each list of actions, in their order; workers evaluate side by side.

        Without workers it is one ``play`` after the other, with the same result.
        """
        return self._play_ahead(
            candidates, self._rehearsed, partial(self.play, floor=floor), floor=floor
        )

    def play_all_counts(self, candidates: Sequence[Mapping[str, int]]) -> list[Episode]:
        """As ``play_all``, for the numbers of channels to keep."""
        return self._play_ahead(candidates, self._rehearsed_counts, self.play_counts)

    def best(self) -> Episode | None:
        """The episode of the greatest reward, of equal rewards the first; None before any."""
        return max(self.episodes, key=lambda episode: episode.reward, default=None)

    def actions_for(self, counts: Mapping[str, int]) -> list[float]:
        """The actions that ask for these numbers of channels."""
        groups = self.pruning.graph.groups
        # Actions are float32. Half a channel below the count, their rounding error cannot reach
        # the point from which the sparsity would be rounded to another count.
        return [1.0 - (counts[g.name] - 0.5) / g.channels for g in groups]

    @property
    def seconds(self) -> float:
        """Seconds since the recording began."""
        return time.perf_counter() - self._started

    def result(self, *, seed: int, is_complete: bool) -> SearchResult:
        """The result of a search with these episodes; of equal rewards, the first is the best.

        Raises:
            ValueError: There is no episode.
        """
        best = self.best()
        if best is None:
            raise ValueError("the search ended before its first episode; there is no policy")
        samples = self.screened + sum(episode.samples for episode in self.episodes)
        return SearchResult(
            policy=self.pruning.policy(best.counts, seed=seed),
            compact=self.pruning.pruner.prune(best.counts).model,
            best=best,
            episodes=tuple(self.episodes),
            evaluations=samples / len(self.pruning.data.validation),
            seconds=self.seconds,
            is_complete=is_complete,
            metric=self.pruning.task.metric,
        )

    def _play_ahead(
        self,
        candidates: Sequence[T],
        rehearse: Callable[[T], Mapping[str, int]],
        play: Callable[[T], Episode],
        *,
        floor: float | None = None,
    ) -> list[Episode]:
        """Play candidates in their order, while workers begin with the next of them."""
        episodes: list[Episode] = []
        # A single one would be there no sooner.
        expected = 0 if self.pruning.ahead.is_on and len(candidates) > 1 else len(candidates)
        for number, candidate in enumerate(candidates):
            if expected <= number + _EXPECTED and expected < len(candidates):
                following = candidates[expected : expected + _EXPECTED]
                self.pruning.expect([rehearse(one) for one in following], floor=floor)
                expected += len(following)
            episodes.append(play(candidate))
        return episodes

    def _rehearsed(self, actions: Sequence[float]) -> dict[str, int]:
        """The numbers of channels that an episode with these actions keeps."""
        following = iter(actions)
        return self.pruning.rehearse(lambda _: next(following))

    def _rehearsed_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The numbers of channels that an episode keeps where these are asked for."""
        following = iter(self.actions_for(counts))
        return self.pruning.rehearse(lambda _: next(following), **EXACTLY)

    def _play(self, actions: Sequence[float], options: Mapping[str, Any]) -> Episode:
        self.reset(options=dict(options))
        for action in actions:
            self.step(np.array([action], dtype=np.float32))
        return self.episodes[-1]

    def _note(self, reward: float, info: dict[str, Any]) -> None:
        episode = Episode(
            number=len(self.episodes) + 1,
            reward=reward,
            accuracy=info["accuracy"],
            flops_ratio=info["flops_ratio"],
            params_ratio=info["params_ratio"],
            counts=info["counts"],
            sparsities=info["sparsities"],
            seconds=info["seconds"],
            samples=info["samples"],
            reward_parts=info["reward_parts"],
            at_seconds=self.seconds,
        )
        self.episodes.append(episode)
        if self._listener:
            self._listener(episode)
