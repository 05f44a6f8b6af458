"""The cost of a network as arithmetic on the numbers of channels that its groups keep."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

from torch import nn

from amc_env.structure.naming import named_tensors
from amc_env.structure.records import Cost, LayerCost, LayerUse, Structure

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class _Size:
    """The size of an axis: ``fixed`` entries, and a number of them per kept channel of a group."""

    fixed: int
    per_channel: tuple[tuple[str, int], ...]

    def at(self, kept: Mapping[str, int]) -> int:
        return self.fixed + sum(kept[group] * places for group, places in self.per_channel)


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """The shape of a whole tensor, and the size of the axes that groups run along, by axis."""

    whole: tuple[int, ...]
    sizes: Mapping[int, _Size]

    def at(self, kept: Mapping[str, int]) -> tuple[int, ...]:
        shape = list(self.whole)
        for dim, size in self.sizes.items():
            shape[dim] = size.at(kept)
        return tuple(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """What costs are calculated from: the layers, the shape of every tensor, and who needs whom.

    ``tensors_of`` and ``layers_of`` hold, for each group, the tensors and the numbers of the
    layers that have to be counted anew when the group keeps another number of channels.
    """

    layers: tuple[LayerUse, ...]
    shapes: Mapping[str, _Shape]
    params: frozenset[str]
    widths: Mapping[str, int]
    tensors_of: Mapping[str, frozenset[str]]
    layers_of: Mapping[str, frozenset[int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class CostPoint:
    """What a network costs at one choice of kept channels, and from there at any other.

    FLOPs are multiply-accumulates of conv and linear layers for one sample; parameters are all
    of the model's, used or not.

    Attributes:
        counts: The number of channels that every group keeps.
        cost: The cost of the network with these channels.
    """

    counts: Mapping[str, int]
    cost: Cost
    _shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    _tables: _Tables = field(repr=False)

    def with_counts(self, kept: Mapping[str, int]) -> "CostPoint":
        """The point at which these groups keep these numbers of channels, and all others as here.

        Only the layers that depend on groups whose number changes are counted anew, so a change of
        a single group is cheap in a network of any depth. The cost is exact, not an estimate.

        Raises:
            ValueError: There is no such group, or it does not have that many channels.
        """
        _check_counts(self._tables.widths, kept)
        # Names that keep their number are left out, so a walk may pass all its decisions every
        # time.
        changed = [name for name, count in kept.items() if count != self.counts[name]]
        counts = {**self.counts, **kept}
        shapes, params = dict(self._shapes), self.cost.params
        # A tensor between two groups that both change must be counted once, hence the sets.
        for tensor in _union(self._tables.tensors_of, changed):
            new = self._tables.shapes[tensor].at(counts)
            if tensor in self._tables.params:
                params += prod(new) - prod(shapes[tensor])
            shapes[tensor] = new
        layers, flops = list(self.cost.layers), self.cost.flops
        for number in _union(self._tables.layers_of, changed):
            layer = _layer_cost(self._tables.layers[number], shapes)
            flops += layer.flops - layers[number].flops
            layers[number] = layer
        cost = Cost(flops=flops, params=params, layers=tuple(layers))
        return CostPoint(counts=counts, cost=cost, _shapes=shapes, _tables=self._tables)

    def sharing(self, group: str) -> frozenset[str]:
        """The groups whose numbers of channels determine what a cut of ``group`` saves.

        They are the groups that run along a tensor together with it, and the group itself. With
        all other groups, the saving adds up.
        """
        # A weight between two groups has as many entries as the product of their channels, so what
        # one saves depends on the other; groups without a common tensor save independently.
        mine = self._tables.tensors_of[group]
        return frozenset(
            name for name, tensors in self._tables.tensors_of.items() if tensors & mine
        ) | {group}


def full_cost(model: nn.Module, structure: Structure) -> CostPoint:
    """The cost of the whole network, from which that of any pruned one follows."""
    shapes = _shapes(model, structure)
    widths = {group.name: group.channels for group in structure.groups}
    tensors_of = _tensors_by_group(shapes, widths)
    tables = _Tables(
        layers=structure.layers,
        shapes=shapes,
        params=frozenset(name for name, _ in model.named_parameters()),
        widths=widths,
        tensors_of=tensors_of,
        layers_of={
            group: frozenset(
                number
                for number, layer in enumerate(structure.layers)
                if not tensors.isdisjoint(layer.tensors)
            )
            for group, tensors in tensors_of.items()
        },
    )
    whole = {name: shape.at(widths) for name, shape in shapes.items()}
    layers = tuple(_layer_cost(layer, whole) for layer in structure.layers)
    cost = Cost(
        flops=sum(layer.flops for layer in layers),
        params=sum(prod(whole[name]) for name in tables.params),
        layers=layers,
    )
    return CostPoint(counts=widths, cost=cost, _shapes=whole, _tables=tables)


def _check_counts(widths: Mapping[str, int], kept: Mapping[str, int]) -> None:
    for name, count in kept.items():
        if name not in widths:
            raise ValueError(f"there is no group {name!r}; give the name of one of the groups")
        if not 0 <= count <= widths[name]:
            raise ValueError(
                f"group {name!r} cannot keep {count} channels; give 0 (the network without the "
                f"group) to {widths[name]}"
            )


def _union(sets: Mapping[str, frozenset[_T]], names: Iterable[str]) -> frozenset[_T]:
    return frozenset[_T]().union(*(sets[name] for name in names))


def _layer_cost(layer: LayerUse, shapes: Mapping[str, tuple[int, ...]]) -> LayerCost:
    # A computed weight is no tensor of the model; what it multiplies is frozen, so its size is
    # fixed.
    weight = layer.shape if layer.weight is None else shapes[layer.weight]
    inputs, outputs = _channels(layer, weight)
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        flops=prod(weight) * layer.uses,
        params=sum(prod(shapes[tensor]) for tensor in layer.tensors),
        inputs=inputs,
        outputs=outputs,
    )


def _channels(layer: LayerUse, weight: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of input and output channels of a layer whose weight has this shape."""
    if layer.kind == "depthwise":
        # Its convolution groups are its channels, so their number is cut with them.
        return weight[0], weight[0]
    first, second = weight[:2]
    if layer.output_dim:
        return first, second * layer.groups
    return second * layer.groups, first


def _tensors_by_group(
    shapes: Mapping[str, _Shape], groups: Iterable[str]
) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {name: set() for name in groups}
    for tensor, shape in shapes.items():
        for size in shape.sizes.values():
            for group, _ in size.per_channel:
                found[group].add(tensor)
    return {name: frozenset(tensors) for name, tensors in found.items()}


def _shapes(model: nn.Module, structure: Structure) -> dict[str, _Shape]:
    # Axes speak of channel classes; costs need the number of channels of the groups instead.
    group_of = {
        int(label): name for name, labels in structure.classes.items() for label in labels.tolist()
    }
    tensors = named_tensors(model)
    sizes: dict[str, dict[int, _Size]] = {name: {} for name, _ in tensors}
    known: dict[int, _Size | None] = {}
    for axis in structure.axes:
        # By identity: equal label vectors are one object (see grouping).
        if id(axis.labels) not in known:
            known[id(axis.labels)] = _size(axis.labels.tolist(), group_of, structure)
        size = known[id(axis.labels)]
        if size is not None:
            sizes[axis.tensor][axis.dim] = size
    return {name: _Shape(whole=tuple(tensor.shape), sizes=sizes[name]) for name, tensor in tensors}


def _size(labels: list[int], group_of: Mapping[int, str], structure: Structure) -> _Size | None:
    """The size of an axis with these labels; None if no group runs along it."""
    places = Counter(group_of[label] for label in labels if label in group_of)
    if not places:
        return None
    return _Size(
        fixed=len(labels) - places.total(),
        per_channel=tuple(
            (name, count // len(structure.classes[name])) for name, count in places.items()
        ),
    )
