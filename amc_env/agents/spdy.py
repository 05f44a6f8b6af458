"""A search over the weights of error curves, each choice of which divides the budget exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from typing_extensions import override

from amc_env.agents.division import Division, Values, need_budget
from amc_env.agents.episodes import Recorder
from amc_env.agents.options import FRACTION, SHARE, check_values, whole
from amc_env.agents.searcher import Searcher
from amc_env.agents.searchers import batches

# So often are coefficients drawn again when they lead to a policy that was played before.
_REDRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Spdy(Searcher):
    r"""Searches for the coefficients of the error curves whose division of the budget pays most.

    Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", 2022. The policy of
    coefficients ``c`` in [0, 1] is

    .. math:: \arg\min_m \sum_g c_g E_g(m_g) \quad \text{within the budget}

    where ``E_g`` is the squared relative residual of the layers that read group ``g``, which keeps
    ``m_g`` channels; see :class:`amc_env.agents.division.Division`. The first episode has all
    coefficients 1. Random ones follow, then a local search draws some of the best coefficients
    again, fewer and fewer of them.

    Attributes:
        shots: Share of the episodes that have random coefficients.
        neighbourhood: Share of the coefficients that the local search draws again at first.
        patience: Episodes without a greater reward after which it draws one coefficient less.
        batch: How many episodes the local search begins from the same best coefficients; they can
            be evaluated side by side. The episodes before it can anyway.
    """

    name: ClassVar[str] = "spdy"

    shots: float = 0.1
    neighbourhood: float = 0.3
    patience: int = 10
    batch: int = 1

    def __post_init__(self) -> None:
        rules = {
            "shots": FRACTION,
            "neighbourhood": SHARE,
            "patience": whole(1),
            "batch": whole(1),
        }
        check_values("agent 'spdy'", vars(self), rules)

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        need_budget(recorder.pruning, self.name)
        generator = np.random.default_rng(seed)
        walk = _Walk(recorder)
        groups = len(recorder.pruning.graph.groups)
        shots = min(round(self.shots * episodes), episodes - 1)
        walk.play_([partial(np.ones, groups), *[partial(_random, groups, generator)] * shots])
        size, failures = max(1, round(self.neighbourhood * groups)), 0
        for count in batches(episodes - shots - 1, self.batch):
            for is_better in walk.play_([partial(walk.redrawn, size, generator)] * count):
                failures = 0 if is_better else failures + 1
                if failures == self.patience:
                    size, failures = max(1, size - 1), 0


class _Walk:
    """The best coefficients until now, and the policies that were played."""

    def __init__(self, recorder: Recorder) -> None:
        self.coefficients: Values = np.ones(len(recorder.pruning.graph.groups))
        self._recorder = recorder
        self._division = Division(recorder.pruning)
        self._reward = float("-inf")
        self._played: set[tuple[int, ...]] = set()

    def play_(self, draws: Sequence[Callable[[], Values]]) -> list[bool]:
        """Play the policies of coefficients that are drawn, and say of each whether it is better.

        Those that pay most are kept.
        """
        asked = [self._asked(draw) for draw in draws]
        episodes = self._recorder.play_all_counts([counts for _, counts in asked])
        return [
            self._told(coefficients, episode.reward)
            for (coefficients, _), episode in zip(asked, episodes, strict=True)
        ]

    def redrawn(self, size: int, generator: np.random.Generator) -> Values:
        """The coefficients with ``size`` of them drawn again."""
        changed = self.coefficients.copy()
        changed[generator.permutation(len(changed))[:size]] = generator.random(size)
        return changed

    def _asked(self, draw: Callable[[], Values]) -> tuple[Values, dict[str, int]]:
        """Coefficients whose policy was not played before, as far as some draws lead to one."""
        for _ in range(_REDRAWS):
            coefficients = draw()
            counts = self._division.divide(self._weighted(coefficients))
            if tuple(counts.values()) not in self._played:
                break
        self._played.add(tuple(counts.values()))
        return coefficients, counts

    def _told(self, coefficients: Values, reward: float) -> bool:
        is_better = reward > self._reward
        # Where rewards have steps, as accuracy has, walking along a step finds the next one sooner.
        if reward >= self._reward:
            self.coefficients, self._reward = coefficients, reward
        return is_better

    def _weighted(self, coefficients: Values) -> dict[str, Values]:
        curves = self._division.curves
        return {n: c * curves[n] for n, c in zip(curves, coefficients.tolist(), strict=True)}


def _random(groups: int, generator: np.random.Generator) -> Values:
    return generator.random(groups)
