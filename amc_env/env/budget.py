"""How much of a network may be left, and how many channels each group may therefore keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import Any

import numpy as np

from amc_env.latency import LatencyTable
from amc_env.names import Kind
from amc_env.structure import ChannelGraph, ChannelGroup, Cost
from amc_env.structure.sparsity import kept_count

_HALVINGS = 30
# Ratios that are tried one after the other where the cost may rise with a channel that is cut.
_TRIED = 128

Measure = Callable[[Cost], float]


def _flops(cost: Cost) -> float:
    return float(cost.flops)


def _params(cost: Cost) -> float:
    return float(cost.params)


MEASURE: Kind[Measure] = Kind(
    title="budget measure",
    entry_points="amc_env.measures",
    makers={"flops": lambda: _flops, "params": lambda: _params},
    is_made=callable,
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Ratios of the original network's cost that a pruned network must not exceed.

    Attributes:
        flops: Ratio of the multiply-accumulates.
        params: Ratio of the parameters.
        latency: Ratio of the latency that ``table`` predicts.
        table: Latencies that were measured on the device that the network is for.
        measures: Ratios of other measures, by name. A measure is a function that reads a number off
            a ``Cost``; the number must fall or stay the same with every channel that is cut. The
            value is a ratio where the name is that of an installed measure, and a pair of the
            measure (a function, or the name of one) and its ratio otherwise.

    Raises:
        ValueError: There is no limit, a ratio is not between 0 and 1, a measure does not exist, or
            there is no table for the latency.
    """

    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    table: LatencyTable | None = None
    measures: Mapping[str, float | tuple[str | Measure, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [name for name in self._own() if name in self.measures]
        if twice:
            raise ValueError(f"the budget for {twice[0]} is given twice; leave it out of measures")
        if self.latency is not None and self.table is None:
            raise ValueError(
                "a budget for latency needs a table of measured latencies; measure one with "
                "python -m amc_env measure, and give it as budget.table, or table in Python"
            )
        limits = self.limits()
        if not limits:
            raise ValueError(
                "the budget has no limit; give flops, params or latency, or no budget at all to "
                "let the reward weigh the cost"
            )
        for name, (_, ratio) in limits.items():
            if not _is_ratio(ratio):
                raise ValueError(
                    f"the budget for {name} is {ratio!r}; give a ratio of the original above 0 and "
                    "below 1, such as 0.5 for half"
                )

    def limits(self) -> dict[str, tuple[Measure, float]]:
        """Every limit by name: what is measured, and the ratio allowed."""
        own = {name: (self._measure(name), ratio) for name, ratio in self._own().items()}
        return own | {name: _measured(name, given) for name, given in self.measures.items()}

    def target(self) -> float:
        """The tightest of the ratios."""
        return min(ratio for _, ratio in self.limits().values())

    def _own(self) -> dict[str, float]:
        """The ratios that have a field of their own and are given."""
        ratios = {"flops": self.flops, "params": self.params, "latency": self.latency}
        return {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _measure(self, name: str) -> Measure:
        """The measure of a ratio that has a field of its own."""
        if name == "latency" and self.table is not None:
            return self.table.milliseconds
        return MEASURE.make(name)


class BudgetKeeper:
    """The numbers of channels that keep a walk over the groups between bounds and inside a budget.

    Every group keeps at least ``min_keep`` and at most ``max_keep`` of its channels. Within these
    bounds it may keep as many as still let the budget be met when all groups that are not decided
    yet keep their fewest. The costs are computed for the whole network, so that no sequence of
    allowed decisions ends over the budget.

    MACs and parameters fall with every channel, so the most that fits is found by bisection. A
    latency need not: one channel more may be faster where it makes a multiple of 8. There the
    numbers are tried one after the other.

    Args:
        graph: The structure of the model.
        budget: The limits; without a budget, only the bounds hold.
        min_keep: Fewest channels that each group may keep, as a ratio of its channels.
        max_keep: Most channels that each group may keep, as a ratio of its channels. A group none
            of whose allowed numbers lies between the bounds keeps the fewest.

    Raises:
        ValueError: The budget cannot be met, and the message names the smallest ratio that can; or
            the bounds are not ratios in order.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        budget: Budget | None,
        *,
        min_keep: float = 0.2,
        max_keep: float = 1.0,
    ) -> None:
        check_bounds(min_keep, max_keep)
        self._graph = graph
        self._min_counts = {group.name: _min_count(group, min_keep) for group in graph.groups}
        self._max_counts = {
            group.name: _max_count(group, max_keep, at_least=self._min_counts[group.name])
            for group in graph.groups
        }
        full, minimum = graph.cost(), graph.cost(self._min_counts)
        limits = budget.limits() if budget else {}
        for name, (measure, ratio) in limits.items():
            whole, smallest = _checked(name, measure(full)), measure(minimum)
            if smallest > ratio * whole:
                raise ValueError(
                    f"the budget for {name} is {ratio}, but with every group at its fewest "
                    f"channels, {_reachable(smallest, whole)}, or let groups keep fewer channels "
                    f"than {min_keep:.0%}"
                )
        self._limits = [(measure, ratio * measure(full)) for measure, ratio in limits.values()]
        self._has_steps = "latency" in limits

    @property
    def min_counts(self) -> dict[str, int]:
        """The fewest channels that each group may keep."""
        return dict(self._min_counts)

    @property
    def max_counts(self) -> dict[str, int]:
        """The most channels that each group may keep, whatever the budget."""
        return dict(self._max_counts)

    def between(self, group: ChannelGroup) -> Sequence[int]:
        """Numbers of channels that ``group`` may keep, whatever the budget, ascending."""
        fewest, most = self._min_counts[group.name], self._max_counts[group.name]
        return [count for count in group.counts if fewest <= count <= most]

    def allowed(self, group: ChannelGroup, decided: Mapping[str, int]) -> Sequence[int]:
        """Numbers of channels that ``group`` may keep after ``decided``, ascending.

        All other groups that are not in ``decided`` are assumed to keep their fewest. ``decided``
        must itself have been allowed; the fewest channels are then always among the numbers.
        """
        counts = self.between(group)
        if self._has_steps:
            rest = {**self._min_counts, **decided}
            return [count for count in counts if self.fits({**rest, group.name: count})]
        low, high = 0, len(counts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits({**self._min_counts, **decided, group.name: counts[middle]}):
                low = middle
            else:
                high = middle - 1
        return counts[: low + 1]

    def scaled(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Numbers of channels that meet the budget, ``counts`` reduced by one sparsity for all.

        The sparsity is the smallest that meets the budget. Since only whole channels can be kept,
        some of the budget is left over. It is spent on one more step of channels, but no more than
        in ``counts``, for the groups from which rounding took most. Groups that are not named count
        with all their channels.

        Raises:
            ValueError: A group does not exist or has not that many channels.
        """
        whole = self._whole(counts)
        sparsity = self.fitting_sparsity(whole)
        wanted = {name: (1.0 - sparsity) * count for name, count in whole.items()}
        return self._with_rest_spent(self._reduced(whole, sparsity), wanted, at_most=whole)

    def spent(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Numbers of channels that spend the budget, ``counts`` times one factor for all groups.

        Where ``counts`` exceed the budget they are those of ``scaled``. Otherwise the factor is the
        greatest that meets the budget, with no group beyond the most channels that it may keep, and
        what rounding leaves of the budget is spent as there. Without a budget nothing changes.

        Raises:
            ValueError: A group does not exist or has not that many channels.
        """
        whole = self._whole(counts)
        if not self._limits:
            return whole
        if not self.fits(whole):
            return self.scaled(whole)
        most = max(self._max_counts[name] / count for name, count in whole.items())
        factor = self._last_fitting(1.0, most, lambda f: self.fits(self._grown(whole, f)))
        wanted = {name: factor * count for name, count in whole.items()}
        return self._with_rest_spent(
            self._grown(whole, factor), wanted, at_most={**whole, **self._max_counts}
        )

    def fitting_sparsity(self, counts: Mapping[str, int]) -> float:
        """The smallest sparsity that meets the budget when all ``counts`` are reduced by it.

        Groups that are not named count with all their channels. Of sparsities that would leave
        every group at its most channels alike, the greatest is meant.

        Raises:
            ValueError: A group does not exist or has not that many channels.
        """
        whole = self._whole(counts)
        beyond = min(1.0 - self._max_counts[name] / count for name, count in whole.items())
        least = max(0.0, beyond)
        if self.fits(self._reduced(whole, least)):
            return least
        return self._last_fitting(1.0, least, lambda s: self.fits(self._reduced(whole, s)))

    def fits(self, counts: Mapping[str, int]) -> bool:
        """Whether a network with these numbers of channels meets every limit."""
        return not self._limits or self.is_met(self._graph.cost(counts))

    def is_met(self, cost: Cost) -> bool:
        """Whether a network of this cost meets every limit."""
        return all(measure(cost) <= limit for measure, limit in self._limits)

    def used(self, cost: Cost) -> tuple[float, ...]:
        """A network's cost relative to each limit."""
        return tuple(measure(cost) / limit for measure, limit in self._limits)

    def _whole(self, counts: Mapping[str, int]) -> dict[str, int]:
        """A number for every group; all channels of those that are not named."""
        # The graph refuses groups that do not exist and numbers that they cannot keep.
        self._graph.cost(counts)
        return {group.name: counts.get(group.name, group.channels) for group in self._graph.groups}

    def _grown(self, counts: Mapping[str, int], factor: float) -> dict[str, int]:
        """What each group would keep of its number of channels times a factor of at least 1."""
        return {
            group.name: max(
                counts[group.name],
                *(c for c in self.between(group) if c <= factor * counts[group.name] + 1e-9),
                self._min_counts[group.name],
            )
            for group in self._graph.groups
        }

    def _with_rest_spent(
        self, counts: dict[str, int], wanted: Mapping[str, float], *, at_most: Mapping[str, int]
    ) -> dict[str, int]:
        """One more step of channels where it fits, first for the groups that rounding cost most."""
        channels = {group.name: group.channels for group in self._graph.groups}
        missing = {name: (wanted[name] - counts[name]) / channels[name] for name in counts}
        for name in sorted(missing, key=lambda name: -missing[name]):
            steps = self.between(self._graph.group(name))
            more = next((c for c in steps if counts[name] < c <= at_most[name]), None)
            if more is not None and self.fits({**counts, name: more}):
                counts[name] = more
        return counts

    def _reduced(self, counts: Mapping[str, int], sparsity: float) -> dict[str, int]:
        """What each group would keep of its number of channels if there were no budget."""
        reduced = {}
        for group in self._graph.groups:
            wanted = group.round_count(kept_count(counts[group.name], sparsity=sparsity))
            fewest, most = self._min_counts[group.name], self._max_counts[group.name]
            reduced[group.name] = min(max(wanted, fewest), most)
        return reduced

    def _last_fitting(self, fitting: float, beyond: float, fits: Callable[[float], bool]) -> float:
        """The number farthest from one that fits, towards one that need not."""
        if self._has_steps:
            fitting, beyond = _bracketed(fitting, beyond, fits)
        return _bisected(fitting, beyond, fits)

    @property
    def reads_totals_only(self) -> bool:
        """Whether the limits depend on nothing but multiply-accumulates and parameters."""
        return all(measure in (_flops, _params) for measure, _ in self._limits)


def _bracketed(fitting: float, beyond: float, fits: Callable[[float], bool]) -> tuple[float, float]:
    """The first of equally spaced numbers, counted from ``beyond``, that fits, and the one before.

    With steps in the cost, several numbers can lie between one that fits and one that does not.
    """
    last = beyond
    for number in range(1, _TRIED):
        tried = beyond + (fitting - beyond) * number / _TRIED
        if fits(tried):
            return tried, last
        last = tried
    return fitting, last


def _bisected(fitting: float, beyond: float, fits: Callable[[float], bool]) -> float:
    """The number farthest from one that fits, towards one that need not, by bisection."""
    for _ in range(_HALVINGS):
        middle = (fitting + beyond) / 2
        if fits(middle):
            fitting = middle
        else:
            beyond = middle
    return fitting


def check_bounds(min_keep: float, max_keep: float) -> None:
    """Refuse bounds on the channels that are not ratios in order.

    Raises:
        ValueError: The bounds are not between 0 and 1, or the lower one is the greater.
    """
    if not 0.0 <= min_keep <= max_keep <= 1.0:
        raise ValueError(
            f"min_keep is {min_keep} and max_keep is {max_keep}; give ratios from 0 to 1, min_keep "
            "no greater than max_keep"
        )


def _is_ratio(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    return is_number and bool(0.0 < value < 1.0)


def _measured(name: str, given: float | tuple[str | Measure, float]) -> tuple[Measure, float]:
    """The measure and the ratio that are given under a name."""
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            raise ValueError(f"the budget for {name} is {given!r}; give a measure and its ratio")
        measure, ratio = given
        return MEASURE.make(measure), ratio
    return MEASURE.make(name), given


def _checked(name: str, whole: float) -> float:
    if not (isfinite(whole) and whole > 0.0):
        raise ValueError(
            f"the budget measure {name!r} gives {whole} for the whole network; it must give a "
            "positive finite number"
        )
    return whole


def _reachable(smallest: float, whole: float) -> str:
    """What is left at the least, and the smallest ratio, in few decimals, that a budget may be."""
    for decimals in (4, 6, 9, 12):
        # Rounded up, and compared as the budget is, so that the ratio named is itself accepted.
        ratio = ceil(smallest / whole * 10**decimals) / 10**decimals
        if ratio < 1.0 and smallest <= ratio * whole:
            return f"{ratio:.{decimals}f} of the original is left; give at least that"
    return "all of the original is left; give no budget for it"


def _min_count(group: ChannelGroup, ratio: float) -> int:
    """The smallest allowed number that is at least a ratio of the group's channels."""
    return next(c for c in group.counts if c >= ratio * group.channels - 1e-9)


def _max_count(group: ChannelGroup, ratio: float, *, at_least: int) -> int:
    """The largest allowed number that is at most a ratio of the group's channels."""
    fitting = [c for c in group.counts if c <= ratio * group.channels + 1e-9]
    return max([at_least, *fitting])
