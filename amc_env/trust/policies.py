"""Random policies that use up a budget in different ways."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc_env.env.budget import BudgetKeeper
from amc_env.structure import ChannelGraph

Array = NDArray[np.float64]

# Candidates that are drawn for each policy that is wanted.
_CANDIDATES = 4
_HALVINGS = 12

# A group keeps up to this much more or less than the mean, by its depth, and this much at random.
_STEEPEST = 0.5
_ROUGHEST = 0.2


def spread_policies(
    graph: ChannelGraph, keeper: BudgetKeeper, number: int, *, seed: int
) -> list[dict[str, int]]:
    """Different random policies that use up the budget, spread over the parameters left.

    The ratio of channels that a group of a candidate keeps rises or falls with the group's depth,
    by a random slope, and deviates from the slope at random. All ratios of a candidate are raised
    together as far as the budget allows, and what whole channels leave of it is spent on single
    groups; without a budget they are raised by a random amount. Networks of equal
    multiply-accumulates differ most in their parameters, which late layers have most of, so the
    policies are the candidates whose parameters come nearest to evenly spaced numbers.

    Args:
        graph: The structure of the network.
        keeper: The budget and the bounds of every group.
        number: How many policies.
        seed: Seed of everything random.

    Raises:
        ValueError: There are fewer different candidates than policies are wanted.
    """
    space = _Space.of(graph, keeper)
    generator = np.random.default_rng(seed)
    drawn = [_candidate(space, generator) for _ in range(_CANDIDATES * number)]
    different = list({tuple(counts.values()): counts for counts in drawn}.values())
    if len(different) < number:
        raise ValueError(
            f"only {len(different)} different policies were found that use up the budget, but "
            f"{number} are wanted; ask for fewer, or give a larger budget or a smaller min_keep"
        )
    params = np.array([graph.cost(counts).params for counts in different], dtype=np.float64)
    return [different[index] for index in _evenly(params, number)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Space:
    """The policies that there are.

    Attributes:
        graph: The structure of the network.
        keeper: The budget.
        ladders: The numbers of channels that each group may keep, ascending.
    """

    graph: ChannelGraph
    keeper: BudgetKeeper
    ladders: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, graph: ChannelGraph, keeper: BudgetKeeper) -> "_Space":
        ladders = {group.name: np.array(keeper.between(group)) for group in graph.groups}
        return cls(graph=graph, keeper=keeper, ladders=ladders)

    def counts(self, ratios: Array) -> dict[str, int]:
        """The most channels that each group may keep at these ratios of its channels."""
        counts = {}
        for group, ratio in zip(self.graph.groups, ratios, strict=True):
            ladder = self.ladders[group.name]
            # Rounding errors must not take a whole channel.
            index = np.searchsorted(ladder, ratio * group.channels + 1e-9, side="right") - 1
            counts[group.name] = int(ladder[max(index, 0)])
        return counts


def _candidate(space: _Space, generator: np.random.Generator) -> dict[str, int]:
    """One random policy that uses up the budget."""
    depths = np.linspace(-1.0, 1.0, len(space.ladders))
    slope = generator.uniform(-_STEEPEST, _STEEPEST)
    noise = generator.uniform(0.0, _ROUGHEST) * generator.standard_normal(len(depths))
    wish = slope * depths + noise
    # From this level on down, and from that level on up, nothing changes any more.
    low, high = -float(wish.max()), 1.0 - float(wish.min())
    if space.keeper.fits(space.counts(high + wish)):
        return space.counts(generator.uniform(low, high) + wish)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        fits = space.keeper.fits(space.counts(middle + wish))
        low, high = (middle, high) if fits else (low, middle)
    return _spent(space, space.counts(low + wish), generator)


def _spent(
    space: _Space, counts: Mapping[str, int], generator: np.random.Generator
) -> dict[str, int]:
    """The policy with more channels for groups in random order until none may keep more."""
    names = list(counts)
    growing = [names[index] for index in generator.permutation(len(names))]
    point = space.graph.cost_point(counts)
    while growing:
        grown = []
        for name in growing:
            more = space.ladders[name][space.ladders[name] > point.counts[name]]
            then = point.with_counts({name: int(more[0])}) if len(more) else None
            if then is not None and space.keeper.is_met(then.cost):
                point = then
                grown.append(name)
        growing = grown
    return dict(point.counts)


def _evenly(values: Array, number: int) -> list[int]:
    """Indices of values near to evenly spaced ones from the smallest to the greatest."""
    chosen: list[int] = []
    distances = np.abs(np.linspace(values.min(), values.max(), number)[:, None] - values)
    for row in distances:
        row[chosen] = np.inf
        chosen.append(int(row.argmin()))
    return chosen
