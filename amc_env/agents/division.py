"""How a budget is divided among the groups so that a sum of their errors is least."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from amc_env import ChannelGroup, ChannelPruningEnv
from amc_env.agents.error_curves import allocate, cut_to_budget
from amc_env.structure.costs import CostPoint

Values = NDArray[np.float64]
Curves = Mapping[str, Values]

# Numbers of channels among which a group chooses; a step from one to the next is at most 2 % then.
_LEVELS = 64
# Steps into which a budget is divided, as in SPDY's code.
_BUCKETS = 10_000
# No level of a group costs so small a share of a limit.
_NOTHING = 1e-12
# Where costs interact, they are counted anew at the last division at most this often.
_ROUNDS = 5


def need_budget(env: ChannelPruningEnv, agent: str) -> None:
    """Refuse an environment without a budget.

    Raises:
        ValueError: There is no budget.
    """
    if env.budget is None:
        raise ValueError(
            f"the agent {agent!r} divides a budget among the groups, and there is none; give a "
            "budget, or choose an agent that weighs costs by the reward, such as ddpg or cma_es"
        )


class Division:
    r"""Divides the budget of an environment by weighted error curves.

    The problem is the multiple-choice knapsack

    .. math:: \min_m \sum_g E_g(m_g) \quad \text{such that} \quad C(m) \le 1

    where ``m_g`` is the number of channels that group ``g`` keeps, ``E_g`` its error and ``C`` the
    network's cost relative to the limits of the budget. Where groups share no weight, ``C`` adds up
    over the groups, and a dynamic programme solves the problem exactly, up to the width of its
    buckets. Elsewhere, a group's cost depends on its neighbours. It is then counted as it is at a
    division that meets the budget, at first that of ``error_curves``; the programme is solved, the
    result is repaired with exact costs, and the next round counts from there. The best division of
    all rounds is taken. Several limits are added up with weights, and a limit that the last round
    exceeded weighs more in the next.

    Args:
        env: The environment; it has a budget.

    Attributes:
        curves: The squared residuals of every group when it keeps 1, 2, ... channels.
        levels: The numbers of channels among which every group chooses, ascending.
    """

    def __init__(self, env: ChannelPruningEnv) -> None:
        self.curves: Curves = {g.name: env.pruner.squared_errors(g.name) for g in env.graph.groups}
        self.levels = levels_of(env)
        self._env = env
        self._start = allocate(env)
        self._known: dict[tuple[object, ...], Values] = {}
        point = env.graph.cost_point(self._start)
        self._is_exact = len(env.keeper.used(point.cost)) == 1 and all(
            self._near(point, name) == {name} for name in self.levels
        )

    def divide(self, curves: Curves) -> dict[str, int]:
        """The numbers of channels that meet the budget at the least sum of these errors found."""
        found: list[dict[str, int]] = [self._start]
        weights = np.ones(len(self._env.keeper.used(self._env.graph.cost())))
        for _ in range(1 if self._is_exact else _ROUNDS):
            solved = self._solve(curves, found[-1], weights)
            weights *= self._env.keeper.used(self._env.graph.cost(solved))
            division = fill_budget(self._env, cut_to_budget(self._env, solved, curves), curves)
            if division in found[1:]:
                break
            found.append(division)
        return min(found[1:], key=lambda counts: total_error(curves, counts))

    def _solve(self, curves: Curves, at: Mapping[str, int], weights: Values) -> dict[str, int]:
        """The solution of the problem with the costs that groups have at a division."""
        point = self._env.graph.cost_point(at)
        used = self._used(point)
        costs = {name: self._costs(point, name) @ weights for name in self.levels}
        saved = sum(
            used - self._used(point.with_counts({n: int(m[0])})) for n, m in self.levels.items()
        )
        choice = knapsack(
            [curves[name][levels - 1] for name, levels in self.levels.items()],
            list(costs.values()),
            float((1.0 - used + saved) @ weights),
        )
        return {n: int(m[c]) for (n, m), c in zip(self.levels.items(), choice, strict=True)}

    def _used(self, point: CostPoint) -> Values:
        return np.array(self._env.keeper.used(point.cost))

    def _costs(self, point: CostPoint, name: str) -> Values:
        """What the levels of a group cost more than its first, (levels, limits)."""
        near = self._near(point, name) - {name}
        key = (name, *((other, point.counts[other]) for other in sorted(near)))
        if key not in self._known:
            levels = self.levels[name].tolist()
            used = [self._used(point.with_counts({name: count})) for count in levels]
            self._known[key] = np.stack(used) - used[0]
        return self._known[key]

    def _near(self, point: CostPoint, name: str) -> frozenset[str]:
        """The groups on which the cost of a group depends."""
        # A measure of the user's may read single layers, and no record says which groups these are.
        is_total = self._env.keeper.reads_totals_only
        return point.sharing(name) if is_total else frozenset(self.levels)


def knapsack(errors: Sequence[Values], costs: Sequence[Values], capacity: float) -> list[int]:
    r"""Choose one level for each group at the least sum of errors within a capacity.

    The dynamic programme of Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees",
    2022, section 3.1, over a capacity of ``B`` buckets:

    .. math:: D_g(b) = \min_l \; D_{g-1}(b - c_{g,l}) + e_{g,l}

    Args:
        errors: The error of every level, for each group.
        costs: The cost of every level in the same order; at least one of each group costs 0.
        capacity: The greatest sum of costs.
    """
    # Without capacity only levels that cost nothing are left, and no division by 0 is needed.
    bucket = max(capacity, _NOTHING) / _BUCKETS
    least = np.zeros(_BUCKETS + 1)
    # Costs are rounded up, so that the sum of rounded costs never hides an excess.
    # A latency has steps, so more channels can cost less than the fewest: they count as free.
    rounded = [np.ceil(np.clip(c / bucket, 0.0, 2 * _BUCKETS) - 1e-6).astype(int) for c in costs]
    chosen = []
    for error, cost in zip(errors, rounded, strict=True):
        best, choice = np.full_like(least, np.inf), np.zeros(len(least), int)
        for level in np.flatnonzero(cost <= _BUCKETS):
            total = least[: len(least) - cost[level]] + error[level]
            is_less = total < best[cost[level] :]
            best[cost[level] :][is_less] = total[is_less]
            choice[cost[level] :][is_less] = level
        least = best
        chosen.append(choice)
    return _traced_back(chosen, rounded)


def fill_budget(
    env: ChannelPruningEnv, counts: Mapping[str, int], curves: Curves
) -> dict[str, int]:
    """Spend what is left of a budget, always where the error falls most for the cost."""
    point = env.graph.cost_point(counts)
    open_groups = list(env.graph.groups)
    while open_groups:
        grown = [(group, _grown(env, group, point)) for group in open_groups]
        fitting = [(group, more) for group, more in grown if more is not None]
        # Costs only rise here, so what does not fit now never will.
        open_groups = [group for group, _ in fitting]
        gains = [_gain(env, curves[group.name], group, (point, more)) for group, more in fitting]
        if gains:
            point = fitting[int(np.argmax(gains))][1]
    return dict(point.counts)


def _grown(env: ChannelPruningEnv, group: ChannelGroup, point: CostPoint) -> CostPoint | None:
    """The network in which the group keeps its next number of channels, if it meets the budget."""
    more = next((c for c in env.keeper.between(group) if c > point.counts[group.name]), None)
    grown = point.with_counts({group.name: more}) if more is not None else None
    return grown if grown is not None and env.keeper.is_met(grown.cost) else None


def _gain(
    env: ChannelPruningEnv, curve: Values, group: ChannelGroup, change: tuple[CostPoint, CostPoint]
) -> float:
    """By how much the error falls for the cost; infinite where nothing is paid."""
    before, after = change
    spent = sum(env.keeper.used(after.cost)) - sum(env.keeper.used(before.cost))
    fallen = curve[before.counts[group.name] - 1] - curve[after.counts[group.name] - 1]
    return float(fallen / spent) if spent > 0.0 else float("inf")


def total_error(curves: Curves, counts: Mapping[str, int]) -> float:
    """The sum of the groups' errors."""
    return float(sum(curve[counts[name] - 1] for name, curve in curves.items()))


def levels_of(env: ChannelPruningEnv) -> dict[str, NDArray[np.int64]]:
    """The numbers of channels among which every group chooses, ascending."""
    return {group.name: _thinned(env.keeper.between(group)) for group in env.graph.groups}


def _thinned(counts: Sequence[int]) -> NDArray[np.int64]:
    """At most 64 of the numbers of channels, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(counts) - 1, min(len(counts), _LEVELS)).round().astype(int)
    thinned: NDArray[np.int64] = np.array(counts)[places]
    return thinned


def _traced_back(
    chosen: Sequence[NDArray[np.int64]], costs: Sequence[NDArray[np.int64]]
) -> list[int]:
    """The levels that lead to the least error within the whole capacity."""
    left, levels = _BUCKETS, []
    for choice, cost in zip(reversed(chosen), reversed(costs), strict=True):
        level = int(choice[left])
        levels.append(level)
        left -= int(cost[level])
    return levels[::-1]
