"""Evolution that moves channels between groups and races offspring on growing parts of the data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.blend import blends
from amc_env.agents.division import Curves, fill_budget, need_budget
from amc_env.agents.episodes import Recorder
from amc_env.agents.error_curves import allocate
from amc_env.agents.options import SHARE, YES_OR_NO, Rule, check_values, whole
from amc_env.agents.searcher import Searcher
from amc_env.agents.searchers import uniform_counts
from amc_env.env import Trial

Counts = dict[str, int]

# So often is a mutation drawn again when it leads to a policy that was tried before.
_REDRAWS = 10

_STARTS: Mapping[str, Callable[[ChannelPruningEnv], Sequence[Mapping[str, int]]]] = {
    "blend": blends,
    "error_curves": lambda env: [allocate(env)],
    "uniform": lambda env: [uniform_counts(env)],
}
_START: Rule = (lambda x: x in _STARTS, "'blend', 'error_curves' or 'uniform'")
_STAGES: Rule = (
    lambda x: isinstance(x, Sequence) and all(_is_stage(s) for s in x) and _narrows(x),
    "pairs of a rising share of the samples and a falling number, such as [[0.1, 8], [0.3, 3]]",
)


@dataclass(frozen=True, kw_only=True)
class EvoPress(Searcher):
    """Evolution with one parent, level switches and a selection in stages.

    Sieberling et al., "EvoPress: Towards Optimal Dynamic Model Compression via Evolutionary
    Search", 2024, algorithm 1. Every generation mutates the parent into offspring: one to three
    times, some group gains channels and another loses as many as pay for them. The offspring are
    compared on a part of the validation samples, the best of them on more samples, and the last one
    is evaluated on all samples, which is an episode. It becomes the parent unless the parent's
    reward is greater.

    An evaluation on a part of the samples counts as that part of an episode, so a search of 100
    episodes evaluates as many samples as any other search does in 100 episodes.

    Attributes:
        start: The first parent: the best policy of ``blend``, or that of ``error_curves`` or of
            ``uniform``.
        step: The most channels that a group gains in one switch, as a share of its channels.
        stages: For each stage the share of the validation samples and how many offspring enter it.
            Shares are rounded up to whole batches. A stage that would need all samples is left out
            with its offspring; without stages, a generation is one offspring.
        race: Whether an episode stops when its reward can no longer reach the parent's. The search
            finds the same policies.
    """

    name: ClassVar[str] = "evopress"

    start: str = "blend"
    step: float = 0.25
    stages: Sequence[tuple[float, int]] = ((0.1, 8), (0.3, 3))
    race: bool = False

    def __post_init__(self) -> None:
        rules = {"start": _START, "step": SHARE, "stages": _STAGES, "race": YES_OR_NO}
        check_values("agent 'evopress'", vars(self), rules)
        # A file gives lists, and records that are equal must compare so.
        object.__setattr__(self, "stages", tuple((share, n) for share, n in self.stages))

    @property
    @override
    def is_racing(self) -> bool:
        return self.race

    @property
    @override
    def is_sampling(self) -> bool:
        return bool(self.stages)

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        env = recorder.pruning
        need_budget(env, self.name)
        births = _Births(env, np.random.default_rng(seed), step=self.step)
        starts = [births.first(counts) for counts in _STARTS[self.start](env)][:episodes]
        rewards = [episode.reward for episode in recorder.play_all_counts(starts)]
        reward = max(rewards)
        parent = starts[rewards.index(reward)]
        stages = _stages(env, self.stages)
        total = len(env.data.validation)
        left = (episodes - len(starts)) * total
        while left >= total:
            now = stages if _price(stages, total) <= left else []
            child = _screened(recorder, births, parent, now)
            left -= _price(now, total)
            floor = reward if self.race else None
            if now:
                # Where a worker has its network already, it goes on with it.
                env.expect([child.counts], floor=floor)
            paid = recorder.play_counts(child.counts, floor=floor).reward
            if paid >= reward:
                parent, reward = child.counts, paid


class _Births:
    """Offspring that were not tried before."""

    def __init__(
        self, env: ChannelPruningEnv, generator: np.random.Generator, *, step: float
    ) -> None:
        self._env = env
        self._generator = generator
        self._step = step
        self._names = [group.name for group in env.graph.groups]
        self._curves: Curves = {g.name: env.pruner.squared_errors(g.name) for g in env.graph.groups}
        self._tried: set[tuple[int, ...]] = set()

    def first(self, counts: Mapping[str, int]) -> Counts:
        """A policy to begin with, with what is left of the budget spent."""
        return self._noted(fill_budget(self._env, counts, self._curves))

    def child(self, parent: Counts) -> Trial:
        """A mutation of the parent, not evaluated yet."""
        for _ in range(_REDRAWS):
            child = self._mutated(parent)
            if tuple(child.values()) not in self._tried:
                break
        return self._env.trial(self._noted(child))

    def expect(self, trials: Sequence[Trial], samples: int) -> None:
        """Have workers, where there are any, evaluate trials on so many samples side by side."""
        self._env.expect([trial.counts for trial in trials], samples=samples)

    def _noted(self, counts: Counts) -> Counts:
        self._tried.add(tuple(counts.values()))
        return counts

    def _mutated(self, parent: Counts) -> Counts:
        """One to three switches, few of them being likelier, as in EvoPress."""
        child = parent
        for _ in range(int(self._generator.integers(1, 4, size=2).min())):
            child = self._switched(child)
        return fill_budget(self._env, child, self._curves)

    def _switched(self, counts: Counts) -> Counts:
        """One group gains channels and another pays for them; no change where they cannot."""
        gaining, losing = (self._names[i] for i in self._pair())
        gains = self._gains(gaining, counts[gaining])
        if not gains or gaining == losing:
            return counts
        grown = {**counts, gaining: int(self._generator.choice(gains))}
        point = self._env.graph.cost_point(grown)
        fewer = [c for c in self._between(losing) if c < counts[losing]]
        paid = (point.with_counts({losing: count}) for count in reversed(fewer))
        return next((dict(p.counts) for p in paid if self._env.keeper.is_met(p.cost)), counts)

    def _pair(self) -> tuple[int, int]:
        """Two groups, the same one twice only if there is no other."""
        first, *others = self._generator.permutation(len(self._names)).tolist()
        return first, others[0] if others else first

    def _gains(self, name: str, count: int) -> list[int]:
        """The numbers of channels that a group may have after it gained some."""
        most = count + self._step * self._env.graph.group(name).channels
        more = [c for c in self._between(name) if c > count]
        return more[:1] + [c for c in more[1:] if c <= most]

    def _between(self, name: str) -> Sequence[int]:
        return self._env.keeper.between(self._env.graph.group(name))


def _screened(
    recorder: Recorder, births: _Births, parent: Counts, stages: Sequence[tuple[int, int]]
) -> Trial:
    """The offspring that is best in the last stage, and the only one where there is no stage."""
    entrants = [*(n for _, n in stages), 1]
    survivors = trials = [births.child(parent) for _ in range(entrants[0])]
    for (samples, _), kept in zip(stages, entrants[1:], strict=True):
        births.expect(survivors, samples)
        rewards = {trial: trial.outcome(samples).reward for trial in survivors}
        survivors = sorted(rewards, key=lambda trial: -rewards[trial])[:kept]
    recorder.screened += sum(trial.samples for trial in {*trials} - {survivors[0]})
    return survivors[0]


def _stages(env: ChannelPruningEnv, stages: Sequence[tuple[float, int]]) -> list[tuple[int, int]]:
    """The samples and the entrants of the stages that need a part of the samples only."""
    total = len(env.data.validation)
    sizes = [(env.evaluator.whole_batches(round(share * total)), n) for share, n in stages]
    return [(size, entrants) for size, entrants in sizes if size < total]


def _price(stages: Sequence[tuple[int, int]], total: int) -> int:
    """How many samples a generation evaluates."""
    ends = [0, *(samples for samples, _ in stages), total]
    entrants = [*(n for _, n in stages), 1]
    return sum(n * (b - a) for n, (a, b) in zip(entrants, pairwise(ends), strict=True))


def _is_stage(value: Any) -> bool:
    is_pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return is_pair and SHARE[0](value[0]) and whole(1)[0](value[1])


def _narrows(stages: Sequence[tuple[float, int]]) -> bool:
    """Whether every stage has more samples and fewer networks than the one before."""
    return all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(stages))
