"""The division of a budget by error curves as a mixed-integer linear programme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from amc_env import ChannelGroup, ChannelPruningEnv
from amc_env.agents.division import Curves, Values, fill_budget, levels_of, need_budget
from amc_env.agents.episodes import Recorder
from amc_env.agents.error_curves import cut_to_budget
from amc_env.agents.options import check_values, real, several
from amc_env.agents.searcher import Searcher

# The solver stops here, at the same division on every machine; seconds would not give the same.
_SOLVER = {"mip_rel_gap": 1e-4, "node_limit": 2000}

_POSITIVE = real(lambda x: 0 < x < float("inf"), "a positive number")


@dataclass(frozen=True, kw_only=True)
class Milp(Searcher):
    r"""Divides the budget by error curves, with interacting costs and all limits at once.

    .. math:: \min_m \sum_g E_g(m_g)^p \quad \text{within the budget}

    ``E_g`` is the root of the summed squared residuals of the layers that read group ``g``, which
    keeps ``m_g`` channels. A greater exponent ``p`` avoids large errors of single groups more than
    small ones of many. Each policy that an exponent leads to is an episode; no reward is read.

    Attributes:
        exponents: The exponents.
    """

    name: ClassVar[str] = "milp"

    exponents: Sequence[float] = (2.0, 1.0, 3.0)

    def __post_init__(self) -> None:
        rule = several(_POSITIVE, "positive numbers, such as [2.0, 1.0, 3.0]")
        check_values("agent 'milp'", vars(self), {"exponents": rule})
        # A file gives a list, and records that are equal must compare so.
        object.__setattr__(self, "exponents", tuple(self.exponents))

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        env = recorder.pruning
        need_budget(env, self.name)
        squared = {g.name: env.pruner.squared_errors(g.name) for g in env.graph.groups}
        programme = Programme(env)
        played: list[dict[str, int]] = []
        for exponent in self.exponents:
            curves = {name: curve ** (exponent / 2) for name, curve in squared.items()}
            counts = programme.divide(curves)
            if counts not in played and len(played) < episodes:
                played.append(counts)
                recorder.play_counts(counts)


class Programme:
    r"""The budget of an environment as the constraints of a mixed-integer linear programme.

    A binary :math:`x_{g,l}` says whether group ``g`` keeps the ``l``-th of its possible numbers of
    channels, and :math:`d_g = \sum_l x_{g,l} d_{g,l}` by how many channels it exceeds its fewest.
    A weight between groups ``g`` and ``h`` costs a product of their channels. It becomes linear by

    .. math:: d_g d_h = \sum_l d_{g,l} z_l, \quad \sum_l z_l = d_h, \quad
        0 \le z_l \le x_{g,l} \max d_h

    which is exact, since one ``x`` is 1 and the others are 0 (Glover, "Improved linear integer
    programming formulations of nonlinear integer problems", 1975). The prices of products are read
    off the network's cost, exactly for multiply-accumulates and parameters. Another measure may be
    no sum of products; it is approximated, and the division is repaired with exact costs. The
    network's parameters are such a sum too, which the largest network maximises.

    Args:
        env: The environment; it has a budget.
    """

    def __init__(self, env: ChannelPruningEnv) -> None:
        self._env = env
        self._levels = levels_of(env)
        self._names = list(self._levels)
        ends = np.cumsum([len(levels) for levels in self._levels.values()])
        self._binaries = self._size = int(ends[-1])
        starts = ends - [len(levels) for levels in self._levels.values()]
        self._columns = {
            name: np.arange(a, b) for name, a, b in zip(self._names, starts, ends, strict=True)
        }
        self._rows = _Rows()
        for name in self._names:
            self._rows.add(self._columns[name], np.ones(len(self._columns[name])), low=1, high=1)
        self._add_limits_()

    def divide(self, curves: Curves) -> dict[str, int]:
        """The numbers of channels that meet the budget at the least sum of these errors."""
        errors = np.zeros(self._size)
        for name, columns in self._columns.items():
            errors[columns] = curves[name][self._levels[name] - 1]
        return self._repaired(self._solved(errors), curves)

    def largest(self) -> dict[str, int]:
        """The numbers of channels that meet the budget with the most parameters."""
        solution = self._solved(-self._sizes)
        curves = {
            group.name: np.linspace(0.0, -self._growth(group, solution), group.channels)
            for group in self._env.graph.groups
        }
        return self._repaired(solution, curves)

    def _repaired(self, counts: Mapping[str, int], curves: Curves) -> dict[str, int]:
        """The division with the budget met, and spent, by exact costs."""
        return fill_budget(self._env, cut_to_budget(self._env, counts, curves), curves)

    def _growth(self, group: ChannelGroup, counts: Mapping[str, int]) -> float:
        """How many parameters all channels of a group have more than one, beside these others."""
        most, least = (
            self._env.graph.cost({**counts, group.name: count}).params
            for count in (group.channels, 1)
        )
        return float(most - least)

    def _add_limits_(self) -> None:
        """Add one row for each limit of the budget, and the columns and rows of products."""
        used = self._used({})
        columns, costs = [], []
        for name, levels in self._levels.items():
            columns.append(self._columns[name])
            costs.append(np.stack([self._used({name: count}) for count in levels.tolist()]) - used)
        for first, second in self._pairs():
            products = self._add_product_(first, second)
            columns.append(products)
            costs.append(self._over(first)[:, None] * self._price(first, second))
        *limits, sizes = np.concatenate(costs).T
        for row, spent in zip(limits, used, strict=False):
            self._rows.add(np.concatenate(columns), row, high=1.0 - spent)
        self._sizes = np.zeros(self._size)
        np.add.at(self._sizes, np.concatenate(columns), sizes)

    def _add_product_(self, first: str, second: str) -> NDArray[np.int64]:
        """Add columns ``z`` and their rows for a pair of groups."""
        chosen, over = self._columns[first], self._over(second)
        products = np.arange(self._size, self._size + len(chosen))
        self._size += len(chosen)
        both = np.concatenate([products, self._columns[second]])
        self._rows.add(both, np.concatenate([np.ones(len(chosen)), -over]), low=0, high=0)
        for product, level in zip(products, chosen, strict=True):
            self._rows.add([product, level], [1.0, -over[-1]], high=0)
        return products

    def _pairs(self) -> list[tuple[str, str]]:
        """The pairs of groups whose costs interact, the one with fewer levels first."""
        point = self._env.graph.cost_point(self._env.keeper.min_counts)
        is_total = self._env.keeper.reads_totals_only
        ordered = sorted(self._names, key=lambda name: len(self._levels[name]))
        return [
            (first, second)
            for first, second in combinations(ordered, 2)
            if not is_total or second in point.sharing(first)
        ]

    def _price(self, first: str, second: str) -> Values:
        """What one channel of a group costs more for each channel of another; see ``_used``."""
        most = {name: int(self._levels[name][-1]) for name in (first, second)}
        alone = [self._used({name: count}) for name, count in most.items()]
        more: Values = self._used(most) - alone[0] - alone[1] + self._used({})
        # A group that has one level only is never over its fewest channels.
        price: Values = more / max(1.0, self._over(first)[-1] * self._over(second)[-1])
        return price

    def _over(self, name: str) -> Values:
        """By how many channels each level exceeds the fewest."""
        levels = self._levels[name]
        over: Values = (levels - levels[0]).astype(np.float64)
        return over

    def _used(self, counts: Mapping[str, int]) -> Values:
        """What is used of every limit if all other groups keep their fewest channels.

        Behind the limits stand the parameters, as a share of the original network's.
        """
        graph = self._env.graph
        cost = graph.cost({**self._env.keeper.min_counts, **counts})
        share = cost.params / graph.cost().params
        used: Values = np.array([*self._env.keeper.used(cost), share])
        return used

    def _solved(self, errors: Values) -> dict[str, int]:
        """The numbers of channels at the least sum of these coefficients, one for each column."""
        # SciPy's optimizers take long to import.
        from scipy.optimize import Bounds, milp

        is_binary = np.arange(self._size) < self._binaries
        upper = np.where(is_binary, 1.0, np.inf)
        found = milp(
            errors,
            integrality=is_binary,
            bounds=Bounds(0.0, upper),
            constraints=self._rows.constraint(self._size),
            # SciPy takes the node limit out of the mapping that it is given.
            options=dict(_SOLVER),
        )
        if found.x is None:
            raise ValueError(
                f"the solver found no division of the budget ({found.message}); choose another "
                "agent, such as spdy or error_curves"
            )
        return {
            name: int(self._levels[name][found.x[columns].argmax()])
            for name, columns in self._columns.items()
        }


class _Rows:
    """Linear constraints, row by row."""

    def __init__(self) -> None:
        self._columns: list[NDArray[np.intc]] = []
        self._values: list[Values] = []
        self._bounds: list[tuple[float, float]] = []

    def add(
        self, columns: ArrayLike, values: ArrayLike, *, high: float, low: float = -np.inf
    ) -> None:
        """Add the constraint that the sum of these columns times the values is within bounds."""
        # Older releases of SciPy hand indices to the solver as they are, and it reads C integers.
        self._columns.append(np.asarray(columns, dtype=np.intc))
        self._values.append(np.asarray(values))
        self._bounds.append((low, high))

    def constraint(self, size: int) -> Any:
        """All rows over ``size`` columns."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        ends = np.cumsum([0, *map(len, self._columns)], dtype=np.intc)
        parts = np.concatenate(self._values), np.concatenate(self._columns), ends
        low, high = zip(*self._bounds, strict=True)
        return LinearConstraint(csr_array(parts, shape=(len(ends) - 1, size)), low, high)
