"""A search without episodes: the residuals of the repair decide how the budget is divided."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from amc_env import ChannelGroup, ChannelPruningEnv, Cost
from amc_env.agents.episodes import Recorder
from amc_env.agents.searcher import Searcher

# A group goes from the most channels to the fewest in about this many steps.
_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class ErrorCurves(Searcher):
    r"""Cuts where the repaired layers' error grows least for the cost that is saved.

    For every group, the factorised repair gives a curve: the relative residual of the layers that
    read the group against the number of channels kept. Starting from the whole network, the cut
    with the smallest

    .. math:: \frac{E_g(m) - E_g(m')}{C(m) - C(m')}

    is made until the budget is met. ``E`` is the squared relative residual of group ``g``, summed
    over the layers that read it and made convex; ``m`` and ``m'`` are the channels kept before and
    after the cut; ``C`` is the cost of the network relative to the limits of the budget, summed
    over the limits that are not met yet. For convex curves and a cost that adds up over the groups
    this is the Lagrangian optimum. The single episode reports the result. Without a budget, nothing
    is cut below ``max_keep``.
    """

    name: ClassVar[str] = "error_curves"
    is_single: ClassVar[bool] = True

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        recorder.play_counts(allocate(recorder.pruning))


def allocate(env: ChannelPruningEnv) -> dict[str, int]:
    """How many channels each group keeps when the error curves divide the budget."""
    curves = {group.name: _convex_errors(env, group) for group in env.graph.groups}
    return cut_to_budget(env, env.keeper.max_counts, curves)


def cut_to_budget(
    env: ChannelPruningEnv, counts: Mapping[str, int], curves: Mapping[str, NDArray[np.float64]]
) -> dict[str, int]:
    """Cut these numbers of channels until the budget is met, always where the least error is paid.

    Args:
        env: The environment.
        counts: How many channels each group keeps at the start.
        curves: The error of each group when it keeps 1, 2, ... of its channels.
    """
    ladders = {group.name: _ladder_below(env, group, counts) for group in env.graph.groups}
    steps = dict.fromkeys(ladders, 0)
    costs = _Costs(env, counts)
    while not env.keeper.is_met(costs.now):
        now = env.keeper.used(costs.now)
        best, best_price = "", float("inf")
        for name, ladder in ladders.items():
            if steps[name] + 1 == len(ladder):
                continue
            count, fewer = ladder[steps[name]], ladder[steps[name] + 1]
            then = env.keeper.used(costs.after(name, fewer))
            saved = sum(a - b for a, b in zip(now, then, strict=True) if a > 1.0)
            lost = curves[name][fewer - 1] - curves[name][count - 1]
            price = float(lost) / saved if saved > 0.0 else sys.float_info.max
            if price < best_price:
                best, best_price = name, price
        steps[best] += 1
        costs.cut_(best, ladders[best][steps[best]])
    return {name: ladder[steps[name]] for name, ladder in ladders.items()}


class _Costs:
    """The network's cost, and its cost after each possible next cut.

    There are thousands of cuts, and before each of them every group is asked for its price. Only
    the few groups that share a weight with the group cut last can have changed what they save; what
    the others save is remembered. Whole numbers are remembered, so that no rounding enters.
    """

    def __init__(self, env: ChannelPruningEnv, counts: Mapping[str, int]) -> None:
        self._point = env.graph.cost_point(counts)
        self._saved: dict[str, tuple[int, int]] = {}
        # A measure of the user's may read single layers, which no saving of totals describes.
        self._is_remembered = env.keeper.reads_totals_only

    @property
    def now(self) -> Cost:
        return self._point.cost

    def after(self, name: str, count: int) -> Cost:
        """The cost once the group keeps its next number of channels."""
        if not self._is_remembered:
            return self._point.with_counts({name: count}).cost
        if name not in self._saved:
            then = self._point.with_counts({name: count}).cost
            self._saved[name] = self.now.flops - then.flops, self.now.params - then.params
        flops, params = self._saved[name]
        return Cost(flops=self.now.flops - flops, params=self.now.params - params, layers=())

    def cut_(self, name: str, count: int) -> None:
        """Let the group keep its next number of channels."""
        self._point = self._point.with_counts({name: count})
        for changed in self._point.sharing(name):
            self._saved.pop(changed, None)


def _ladder(env: ChannelPruningEnv, group: ChannelGroup) -> list[int]:
    """Numbers of channels to step through, from the most to the fewest that are allowed."""
    allowed = list(reversed(env.keeper.between(group)))
    stride = max(1, len(allowed) // _STEPS)
    steps = allowed[::stride]
    return steps if steps[-1] == allowed[-1] else [*steps, allowed[-1]]


def _ladder_below(
    env: ChannelPruningEnv, group: ChannelGroup, counts: Mapping[str, int]
) -> list[int]:
    """The ladder from the number of channels that the group keeps already."""
    most = counts[group.name]
    return [most, *(count for count in _ladder(env, group) if count < most)]


def _convex_errors(env: ChannelPruningEnv, group: ChannelGroup) -> NDArray[np.float64]:
    """The lower convex hull of the squared residuals for 1, 2, ... channels kept."""
    errors = env.pruner.squared_errors(group.name)
    hull: list[int] = []
    for point in range(len(errors)):
        while len(hull) > 1 and _is_above(errors, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    convex: NDArray[np.float64] = np.interp(np.arange(len(errors)), hull, errors[hull])
    return convex


def _is_above(errors: NDArray[np.float64], left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line between the others."""
    along = (errors[right] - errors[left]) * (middle - left) / (right - left)
    return bool(errors[middle] >= errors[left] + along)
