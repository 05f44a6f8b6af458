"""New weights for the layers that read pruned channels, for any numbers kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from amc_env.calibration import Calibration
from amc_env.calibration.rows import can_be_repaired
from amc_env.repair.least_squares import FactoredLeastSquares, NormalEquations
from amc_env.structure import ChannelGraph, ChannelGroup

DEFAULT_RIDGE = 1e-4

# What a group is to keep: its best channels, so many, or the channels at these indices.
Keep = int | Sequence[int] | Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """A group's places on one axis of a layer."""

    group: str
    positions: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """One layer: the least squares of each convolution group, their inputs' number, the kernel."""

    parts: tuple[NormalEquations, ...]
    width: int
    kernel: tuple[int, ...]


def repaired_layers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers whose weights are solved for when channels go.

    These are all convolutions and linear layers that read a group; see ``unrepaired_layers``.
    """
    modules = dict(graph.model.named_modules())
    return tuple(name for name in _readers(graph) if can_be_repaired(modules.get(name)))


def unrepaired_layers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers that read a group and keep the weights they have, as transposed convolutions do."""
    repaired = set(repaired_layers(graph))
    return tuple(name for name in _readers(graph) if name not in repaired)


class Reconstruction:
    """A plan: every layer's least squares factored once, for any channels kept.

    The targets are each layer's own outputs in the original network, without bias, on the
    original network's activations.

    Args:
        graph: The structure of the model.
        calibration: Gram matrices of ``repaired_layers(graph)``.
        orders: Channels of every group from best to worst; groups not named keep their order.
        ridge: Pull towards the original weights, relative to the mean square of an input.
        takes_grams: Whether the Gram matrices are taken out of the calibration one after the other,
            so that they and their factors, which are as large, are not held at once.

    Raises:
        ValueError: An order is no permutation of its group's channels, or a layer was not
            calibrated.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        calibration: Calibration,
        orders: Mapping[str, Tensor],
        *,
        ridge: float = DEFAULT_RIDGE,
        takes_grams: bool = False,
    ) -> None:
        if ridge < 0:
            raise ValueError(f"ridge is {ridge}; give 0 or more")
        for name in orders:
            graph.group(name)
        self._graph = graph
        self._orders = {g.name: _checked_order(g, orders.get(g.name)) for g in graph.groups}
        modules = dict(graph.model.named_modules())
        self._layers: dict[str, _LayerPlan] = {}
        for name in repaired_layers(graph):
            if name not in calibration.grams:
                raise ValueError(f"layer {name!r} was not calibrated; pass it to calibrate()")
            inputs = _sides(graph, name, producers=False)
            outputs = _sides(graph, name, producers=True)
            grams = calibration.grams.pop(name) if takes_grams else calibration.grams[name]
            problem = _problem(modules[name], grams)
            del grams
            self._layers[name] = _LayerPlan(problem, inputs, outputs, self._orders, ridge)

    def kept(self, keep: Mapping[str, Keep]) -> dict[str, Tensor]:
        """Indices of the channels that stay, ascending; those of a number are the best.

        Raises:
            ValueError: A group does not exist or cannot keep that many or those.
        """
        indices: dict[str, Sequence[int] | Tensor] = {}
        for name, value in keep.items():
            if isinstance(value, int):
                self._check(name, value)
                indices[name] = self._orders[name][:value]
            else:
                indices[name] = value
        return self._graph.checked_kept(indices)

    def weights(self, keep: Mapping[str, Keep]) -> dict[str, Tensor]:
        """New weights by layer name, in the shapes of the compact network's, in float64.

        A number of channels, or indices that are the best so many, cost a triangular solve; any
        other indices are solved for directly. Groups not named keep all channels; layers that read
        no channel that goes are left out: they keep the rows of their weights that belong to the
        outputs kept.

        Raises:
            ValueError: A group does not exist or cannot keep that many or those.
        """
        kept = self.kept(keep)
        cut = {name: k for name, k in kept.items() if len(k) < len(self._orders[name])}
        return {
            name: layer.weights(cut)
            for name, layer in self._layers.items()
            if any(side.group in cut for side in layer.inputs)
        }

    @torch.no_grad()
    def apply_(self, compact: nn.Module, keep: Mapping[str, Keep]) -> None:
        """Write the new weights into a compact network cut to ``self.kept(keep)``.

        Raises:
            ValueError: The network was cut to other numbers of channels; nothing is written then.
        """
        modules = dict(compact.named_modules())
        writes: list[tuple[Tensor, Tensor]] = []
        for name, weight in self.weights(keep).items():
            target = modules[name].weight if name in modules else None
            if not isinstance(target, Tensor) or target.shape != weight.shape:
                raise ValueError(f"layer {name!r} of the compact network was cut to another size")
            writes.append((target, weight))
        for target, weight in writes:
            target.copy_(weight)

    def _check(self, name: str, count: int) -> None:
        allowed = self._graph.group(name).counts
        if count not in allowed:
            raise ValueError(
                f"group {name!r} cannot keep {count!r} channels; give one of its counts, "
                f"from {allowed[0]} to {allowed[-1]}"
            )

    def errors(self, group: str) -> Tensor:
        """Relative residual of what reads a group, for 1, 2, ... all channels kept.

        Layers are weighed by the energy of their outputs; where a layer reads several groups, all
        channels of the others are kept. This is the residual itself, without the ridge.

        Raises:
            ValueError: There is no such group, or no layer that reads it is repaired.
        """
        each = self._losses(group).values()
        lost = torch.stack([lost.cpu() for lost, _ in each]).sum(0)
        energy = torch.stack([energy.cpu() for _, energy in each]).sum()
        return (lost / energy.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()

    def layer_errors(self, group: str) -> dict[str, Tensor]:
        """As ``errors``, of each layer that reads the group, by its name."""
        tiny = torch.finfo(torch.float64).tiny
        return {
            name: (lost / energy.clamp_min(tiny)).sqrt().cpu()
            for name, (lost, energy) in self._losses(group).items()
        }

    def _losses(self, group: str) -> dict[str, tuple[Tensor, Tensor]]:
        self._graph.group(group)
        found = {
            name: layer.losses(group)
            for name, layer in self._layers.items()
            if any(side.group == group for side in layer.inputs)
        }
        if not found:
            raise ValueError(f"no layer that reads group {group!r} is repaired")
        return found


class _LayerPlan:
    """One layer's problems, one for each convolution group."""

    def __init__(
        self,
        problem: _Problem,
        inputs: tuple[_Side, ...],
        outputs: tuple[_Side, ...],
        orders: Mapping[str, Tensor],
        ridge: float,
    ) -> None:
        self.inputs = inputs
        self._outputs = outputs
        self._n_outputs = [part.anchor.shape[1] for part in problem.parts]
        self._energies = [float(part.target.sum()) for part in problem.parts]
        self._width = problem.width
        self._kernel = problem.kernel
        self._ridge = ridge
        self._orders = orders
        # A layer that reads a single group is factored for good; one that reads several, as
        # behind a concatenation, is factored for each group alone only when curves are asked for.
        is_single = len(inputs) == 1
        self._factored = self._factor(inputs[0], problem.parts) if is_single else None
        self._parts = () if is_single else problem.parts

    def weights(self, kept: Mapping[str, Tensor]) -> Tensor:
        """The weight (outputs, inputs of a part, *kernel) with only the channels ``kept``."""
        outputs = _mask(sum(self._n_outputs), self._outputs, kept)
        solved = []
        for number, stays in enumerate(outputs.split(self._n_outputs)):
            chosen = stays.nonzero().flatten()
            columns, weight = self._solved(number, kept, chosen)
            by_channel = weight[columns.argsort()].mT
            solved.append(by_channel.reshape(len(chosen), -1, *self._kernel))
        return torch.cat(solved)

    def _solved(
        self, number: int, kept: Mapping[str, Tensor], outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The columns of a part that stay and their weights for some outputs."""
        if self._factored is None:
            columns = self._kept_columns(number, kept)
            return columns, self._parts[number].solve(columns, ridge=self._ridge, outputs=outputs)
        factored, fixed = self._factored[number]
        group = self.inputs[0].group
        ranks = self._orders[group].argsort()[kept[group]].sort().values
        if ranks[-1] < len(ranks):
            count = len(ranks) + fixed
            return factored.columns(count), factored.weights(count, outputs)
        blocks = torch.cat([torch.arange(fixed), ranks + fixed])
        return factored.columns_of(blocks), factored.weights_of(blocks, outputs)

    def losses(self, group: str) -> tuple[Tensor, Tensor]:
        """Squared residual for every number of the group's channels kept, and outputs' energy."""
        side = next(s for s in self.inputs if s.group == group)
        plans = self._factored or self._factor(side, self._parts)
        lost = [
            plan.errors()[fixed:].square() * energy
            for (plan, fixed), energy in zip(plans, self._energies, strict=True)
        ]
        total = torch.stack(lost).sum(0)
        return total, total.new_tensor(sum(self._energies))

    def _factor(
        self, side: _Side, parts: Sequence[NormalEquations]
    ) -> list[tuple[FactoredLeastSquares, int]]:
        """For each part its factorisation, and the number of blocks that always stay."""
        plans = []
        for number, part in enumerate(parts):
            blocks = [self._columns(number, p) for p in side.positions[self._orders[side.group]]]
            free = torch.ones(part.anchor.shape[0], dtype=torch.bool)
            free[torch.cat(blocks)] = False
            always = [free.nonzero().flatten()] if free.any() else []
            plan = FactoredLeastSquares(part, [*always, *blocks], ridge=self._ridge)
            plans.append((plan, len(always)))
        return plans

    def _kept_columns(self, number: int, kept: Mapping[str, Tensor]) -> Tensor:
        stays = _mask(self._width * len(self._n_outputs), self.inputs, kept)
        return self._columns(number, stays.nonzero().flatten())

    def _columns(self, number: int, positions: Tensor) -> Tensor:
        """Columns of part ``number`` that belong to the input channels at ``positions``."""
        inside = positions[positions // self._width == number] % self._width
        return (inside[:, None] * prod(self._kernel) + torch.arange(prod(self._kernel))).flatten()


def _readers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers that read a group, each once."""
    return tuple({c.module: None for group in graph.groups for c in group.consumers})


def _problem(layer: nn.Module, grams: Tensor) -> _Problem:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(layer).__name__} has no weight")
    parts = weight.detach().to(grams.device).chunk(len(grams))
    equations = tuple(
        NormalEquations.of_layer(gram, part.flatten(1).mT)
        for gram, part in zip(grams, parts, strict=True)
    )
    return _Problem(parts=equations, width=weight.shape[1], kernel=tuple(weight.shape[2:]))


def _sides(graph: ChannelGraph, layer: str, *, producers: bool) -> tuple[_Side, ...]:
    return tuple(
        _Side(group=group.name, positions=member.positions)
        for group in graph.groups
        for member in (group.producers if producers else group.consumers)
        if member.module == layer
    )


def _mask(size: int, sides: tuple[_Side, ...], kept: Mapping[str, Tensor]) -> Tensor:
    """Which of ``size`` indices stay."""
    stays = torch.ones(size, dtype=torch.bool)
    for side in sides:
        if side.group in kept:
            stays[side.positions.flatten()] = False
            stays[side.positions[kept[side.group]].flatten()] = True
    return stays


def _checked_order(group: ChannelGroup, order: Tensor | None) -> Tensor:
    if order is None:
        return torch.arange(group.channels)
    if order.cpu().sort().values.tolist() != list(range(group.channels)):
        raise ValueError(
            f"the order of group {group.name!r} is no permutation of its {group.channels} channels"
        )
    return order.cpu()
