"""New weights for one layer, for any channels of the groups that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from amc_env.repair.least_squares import NormalEquations, Problem, Solver, make_solver
from amc_env.structure import ChannelGraph, Member


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Where a group's channels stand among the inputs, or the outputs, of a layer.

    Attributes:
        group: Name of the group.
        positions: (channels, places) indices on the layer's axis.
    """

    group: str
    positions: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The solver of one convolution group of a layer.

    Attributes:
        solver: Its blocks are the channels of the layer's group, after the fixed block.
        fixed: 1 if inputs that belong to no group form a first block, which is always kept; or 0.
    """

    solver: Solver
    fixed: int


class LayerPlan:
    """The least squares problems of one layer, one for each convolution group.

    Args:
        layer: The layer in the original network.
        problems: Of each part; those that are factored must be so for these orders.
        sides: The groups that the layer reads, and those that it makes.
        orders: Channels of every group from best to worst.
        ridge: Pull towards the original weights, relative to the mean square of an input.
    """

    def __init__(
        self,
        layer: nn.Module,
        problems: Sequence[Problem],
        sides: tuple[tuple[Side, ...], tuple[Side, ...]],
        *,
        orders: Mapping[str, Tensor],
        ridge: float,
    ) -> None:
        weight = weight_of(layer)
        self.inputs, self._outputs = sides
        self._width = weight.shape[1]
        self._kernel = tuple(weight.shape[2:])
        self._ridge = ridge
        self._orders = orders
        self._n_outputs = [len(problem.target) for problem in problems]
        self._energies = [float(problem.target.sum()) for problem in problems]
        # A factor serves all sparsities of one order of columns. A layer that reads one group has
        # such an order, the group's. One that reads several, as behind a concatenation, has none:
        # any number of one group's channels may meet any number of another's. It keeps the
        # equations and solves them for the channels asked for.
        is_single = len(self.inputs) == 1
        self._parts = self._solvers(self.inputs[0], problems) if is_single else []
        self._equations = (
            [] if is_single else [p for p in problems if isinstance(p, NormalEquations)]
        )

    @property
    def problems(self) -> list[Problem]:
        """The problems of each part, factored where they are."""
        if self._parts:
            return [part.solver.problem for part in self._parts]
        return [*self._equations]

    def weights(self, kept: Mapping[str, Tensor]) -> Tensor:
        """The weight (outputs, inputs of a part, *kernel) with only the channels ``kept``."""
        outputs = staying(sum(self._n_outputs), self._outputs, kept)
        solved = []
        for number, stays in enumerate(outputs.split(self._n_outputs)):
            chosen = stays.nonzero().flatten()
            columns, weight = self._solved(number, kept, chosen)
            # Solvers give columns in the order of their blocks, a layer reads them ascending.
            by_channel = weight[columns.argsort()].mT
            solved.append(by_channel.reshape(len(chosen), -1, *self._kernel))
        return torch.cat(solved)

    def losses(self, group: str) -> tuple[Tensor, Tensor]:
        """Squared residual for every number of the group's channels kept, and outputs' energy."""
        side = next(s for s in self.inputs if s.group == group)
        parts = self._parts or self._solvers(side, self._equations)
        lost = [
            part.solver.errors()[part.fixed :].square() * energy
            for part, energy in zip(parts, self._energies, strict=True)
        ]
        total = torch.stack(lost).sum(0)
        return total, total.new_full((), sum(self._energies))

    def _solved(
        self, number: int, kept: Mapping[str, Tensor], outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The columns of a part that stay and their weights for some outputs."""
        if not self._parts:
            columns = self._kept_columns(number, kept)
            equations = self._equations[number]
            return columns, equations.solve(columns, ridge=self._ridge, outputs=outputs)
        solver, fixed = self._parts[number].solver, self._parts[number].fixed
        group = self.inputs[0].group
        ranks = self._orders[group].argsort()[kept[group]].sort().values
        # The best channels are the first blocks, so that the triangular solve does; the largest of
        # n different ranks is n - 1 only then.
        if ranks[-1] < len(ranks):
            count = len(ranks) + fixed
            return solver.columns(count), solver.weights(count, outputs)
        blocks = torch.cat([torch.arange(fixed), ranks + fixed])
        return solver.columns_of(blocks), solver.weights_of(blocks, outputs)

    def _solvers(self, side: Side, problems: Sequence[Problem]) -> list[_Part]:
        """A solver for each part, the blocks being one group's channels from best to worst."""
        parts = []
        for number, problem in enumerate(problems):
            blocks = [self._columns(number, p) for p in side.positions[self._orders[side.group]]]
            # Inputs of other groups, or of none, stay whatever this group keeps. In front of all
            # others they are part of every leading block.
            free = torch.ones(problem.anchor.shape[0], dtype=torch.bool)
            free[torch.cat(blocks)] = False
            always = [free.nonzero().flatten()] if free.any() else []
            solver = make_solver(problem, [*always, *blocks], ridge=self._ridge)
            parts.append(_Part(solver=solver, fixed=len(always)))
        return parts

    def _kept_columns(self, number: int, kept: Mapping[str, Tensor]) -> Tensor:
        stays = staying(self._width * len(self._n_outputs), self.inputs, kept)
        return self._columns(number, stays.nonzero().flatten())

    def _columns(self, number: int, positions: Tensor) -> Tensor:
        """Columns of part ``number`` that belong to the input channels at ``positions``."""
        inside = positions[positions // self._width == number] % self._width
        return (inside[:, None] * prod(self._kernel) + torch.arange(prod(self._kernel))).flatten()


def stated(layer: nn.Module, grams: Tensor) -> list[NormalEquations]:
    """The problems of each part of a layer, from the Gram matrices (parts, columns, columns)."""
    parts = parted(layer, len(grams), device=grams.device)
    return [NormalEquations.of_layer(gram, part) for gram, part in zip(grams, parts, strict=True)]


def parted(layer: nn.Module, parts: int, *, device: torch.device) -> list[Tensor]:
    """The original weights (columns, outputs) of each part of a layer."""
    weight = weight_of(layer).detach().to(device)
    return [part.flatten(1).mT for part in weight.chunk(parts)]


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight.

    Raises:
        ValueError: It has none.
    """
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(layer).__name__} has no weight")
    return weight


def input_sides(graph: ChannelGraph, layer: str) -> tuple[Side, ...]:
    """The groups that a layer reads."""
    return _sides({group.name: group.consumers for group in graph.groups}, layer)


def output_sides(
    graph: ChannelGraph, layer: str, *, with_followers: bool = False
) -> tuple[Side, ...]:
    """The groups that a layer makes or, as a depthwise convolution does, only hands on."""
    members = {
        group.name: (*group.producers, *(group.followers if with_followers else ()))
        for group in graph.groups
    }
    return _sides(members, layer)


def staying(size: int, sides: tuple[Side, ...], kept: Mapping[str, Tensor]) -> Tensor:
    """Which of ``size`` inputs or outputs stay, as a mask; groups not in ``kept`` stay whole."""
    stays = torch.ones(size, dtype=torch.bool)
    for side in sides:
        if side.group in kept:
            stays[side.positions.flatten()] = False
            stays[side.positions[kept[side.group]].flatten()] = True
    return stays


def _sides(members: Mapping[str, tuple[Member, ...]], layer: str) -> tuple[Side, ...]:
    return tuple(
        Side(group=group, positions=member.positions)
        for group, each in members.items()
        for member in each
        if member.module == layer
    )
