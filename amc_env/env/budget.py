"""How much of a network may be left, and how much of each group that still allows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from amc_env.structure import ChannelGraph, ChannelGroup, Cost

Measure = Callable[[Cost], float]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Ratios of the original network's cost that a pruned one must not exceed.

    Attributes:
        flops: Of the multiply-accumulates.
        params: Of the parameters.
        measures: Of any other number that is read off a cost and falls with every channel, by
            name: the function and its ratio.
    """

    flops: float | None = None
    params: float | None = None
    measures: Mapping[str, tuple[Measure, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.limits():
            raise ValueError(
                "the budget has no limit; give flops or params, or no budget at all to let the "
                "reward weigh the cost"
            )
        for name, (_, ratio) in self.limits().items():
            if isinstance(ratio, bool) or not 0.0 < ratio < 1.0:
                raise ValueError(
                    f"the budget for {name} is {ratio!r}; give a ratio of the original above 0 and "
                    "below 1, such as 0.5 for half"
                )

    def limits(self) -> dict[str, tuple[Measure, float]]:
        """Every limit by name: what is measured, and the ratio allowed."""
        named: dict[str, tuple[Measure, float | None]] = {
            "flops": (_flops, self.flops),
            "params": (_params, self.params),
        }
        given = {name: (of, ratio) for name, (of, ratio) in named.items() if ratio is not None}
        return {**given, **self.measures}

    def target(self) -> float:
        """The tightest of the ratios."""
        return min(ratio for _, ratio in self.limits().values())


class BudgetKeeper:
    """The numbers of channels that keep a walk over the groups inside a budget.

    A group may keep as many channels as still let the limits be met with all later groups at their
    least. The costs are those of the graph, so no walk ever ends over the budget.

    Args:
        graph: The structure of the model.
        budget: The limits; without one, everything is allowed.
        min_keep: Fewest channels that each group may keep, as a ratio of its channels.

    Raises:
        ValueError: The budget cannot be met; the message names the smallest ratio that can.
    """

    def __init__(
        self, graph: ChannelGraph, budget: Budget | None, *, min_keep: float = 0.2
    ) -> None:
        if not 0.0 <= min_keep <= 1.0:
            raise ValueError(f"min_keep is {min_keep}; give a ratio from 0 to 1")
        self._graph = graph
        self._min_counts = {group.name: _least_count(group, min_keep) for group in graph.groups}
        full, minimum = graph.cost(), graph.cost(self._min_counts)
        limits = budget.limits() if budget else {}
        for name, (measure, ratio) in limits.items():
            reachable = measure(minimum) / measure(full)
            if reachable > ratio:
                raise ValueError(
                    f"the budget for {name} is {ratio}, but with every group at its least "
                    f"{reachable:.4f} is left; give at least that, or let groups keep fewer "
                    f"channels than {min_keep:.0%}"
                )
        self._limits = [(measure, ratio * measure(full)) for measure, ratio in limits.values()]

    @property
    def min_counts(self) -> dict[str, int]:
        """The fewest channels that each group may keep."""
        return dict(self._min_counts)

    def allowed(self, group: ChannelGroup, decided: Mapping[str, int]) -> Sequence[int]:
        """Numbers of channels that ``group`` may keep after ``decided``, ascending.

        Groups neither decided nor this one are taken at their least. ``decided`` must itself have
        been allowed, so the least is always among them.
        """
        counts = [c for c in group.counts if c >= self._min_counts[group.name]]
        low, high = 0, len(counts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits({**self._min_counts, **decided, group.name: counts[middle]}):
                low = middle
            else:
                high = middle - 1
        return counts[: low + 1]

    def fits(self, counts: Mapping[str, int]) -> bool:
        """Whether a network with these numbers of channels meets every limit."""
        if not self._limits:
            return True
        cost = self._graph.cost(counts)
        return all(measure(cost) <= limit for measure, limit in self._limits)

    def used(self, counts: Mapping[str, int]) -> tuple[float, ...]:
        """What a network with these numbers of channels costs, relative to each limit."""
        if not self._limits:
            return ()
        cost = self._graph.cost(counts)
        return tuple(measure(cost) / limit for measure, limit in self._limits)


def _least_count(group: ChannelGroup, least: float) -> int:
    """The smallest allowed number that is at least a ratio of the group's channels."""
    return next(c for c in group.counts if c >= least * group.channels - 1e-9)


def _flops(cost: Cost) -> float:
    return float(cost.flops)


def _params(cost: Cost) -> float:
    return float(cost.params)
