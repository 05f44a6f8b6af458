"""Costs as arithmetic on numbers of kept channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from amc_env.structure.cutting import named_tensors
from amc_env.structure.records import Cost, LayerCost, LayerUse, Structure


@dataclass(frozen=True, kw_only=True)
class _Size:
    """An axis size: ``fixed`` entries plus some for every kept channel of each group."""

    fixed: int
    per_channel: tuple[tuple[str, int], ...]

    def at(self, kept: Mapping[str, int]) -> int:
        return self.fixed + sum(kept[group] * places for group, places in self.per_channel)


class CostModel:
    """FLOPs and parameters for any numbers of kept channels, without building a network.

    FLOPs are multiply-accumulates of conv and linear layers for one sample; parameters are all
    of the model's, used or not.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._full = {group.name: group.channels for group in structure.groups}
        self._layers = structure.layers
        self._shapes = _shapes(model, structure)
        self._params = [name for name, _ in model.named_parameters()]

    def cost(self, kept: Mapping[str, int]) -> Cost:
        """What the network costs with ``kept`` channels; groups not named keep all."""
        counts = {**self._full, **kept}
        numel = {name: _numel(shape, counts) for name, shape in self._shapes.items()}
        layers = tuple(_layer_cost(layer, numel) for layer in self._layers)
        return Cost(
            flops=sum(layer.flops for layer in layers),
            params=sum(numel[name] for name in self._params),
            layers=layers,
        )


def _layer_cost(layer: LayerUse, numel: Mapping[str, int]) -> LayerCost:
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        flops=numel[layer.weight] * layer.uses,
        params=sum(numel[tensor] for tensor in layer.tensors),
    )


def _numel(shape: tuple[int | _Size, ...], counts: Mapping[str, int]) -> int:
    return prod(size if isinstance(size, int) else size.at(counts) for size in shape)


def _shapes(model: nn.Module, structure: Structure) -> dict[str, tuple[int | _Size, ...]]:
    group_of = {
        int(label): name for name, labels in structure.classes.items() for label in labels.tolist()
    }
    shapes: dict[str, list[int | _Size]] = {
        name: list(tensor.shape) for name, tensor in named_tensors(model)
    }
    for axis in structure.axes:
        places: dict[str, int] = {}
        for label in axis.labels.tolist():
            if label in group_of:
                places[group_of[label]] = places.get(group_of[label], 0) + 1
        if places:
            widths = {name: len(structure.classes[name]) for name in places}
            shapes[axis.tensor][axis.dim] = _Size(
                fixed=len(axis.labels) - sum(places.values()),
                per_channel=tuple((name, count // widths[name]) for name, count in places.items()),
            )
    return {name: tuple(shape) for name, shape in shapes.items()}
