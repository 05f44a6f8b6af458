"""New weights for all layers that read pruned channels, for any channels kept.

Factoring is the expensive part and depends only on the order of each group's channels, so it is
done once. An episode of a search then asks for weights again and again at the price of triangular
solves.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amc_env.calibration import Calibration
from amc_env.calibration.rows import can_be_repaired
from amc_env.repair.layer_plan import LayerPlan, input_sides, output_sides, stated
from amc_env.repair.least_squares import Problem
from amc_env.structure import ChannelGraph, ChannelGroup

DEFAULT_RIDGE = 1e-4

# How many of a group's best-ranked channels to keep, or the indices of the channels to keep.
Keep = int | Sequence[int] | Tensor


def repaired_layers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers whose weights are solved for when channels that they read are removed.

    These are the convolutions and linear layers that read a group. ``unrepaired_layers`` lists the
    others, such as transposed convolutions and weights that are no layer's but bare parameters.
    """
    modules = dict(graph.model.named_modules())
    return tuple(name for name in _readers(graph) if can_be_repaired(modules.get(name)))


def unrepaired_layers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers that read a group and keep the weights that they have, as bare parameters do."""
    repaired = set(repaired_layers(graph))
    return tuple(name for name in _readers(graph) if name not in repaired)


def kept_channels(
    graph: ChannelGraph, orders: Mapping[str, Tensor], keep: Mapping[str, Keep]
) -> dict[str, Tensor]:
    """Indices of the channels that stay, ascending; for a number, of the best-ranked ones.

    Args:
        graph: The structure of the model.
        orders: Channels of every group from best to worst.
        keep: What each group keeps.

    Raises:
        ValueError: A group does not exist or cannot keep that many or those.
    """
    indices: dict[str, Sequence[int] | Tensor] = {}
    for name, value in keep.items():
        if isinstance(value, int):
            _check_count(graph.group(name), value)
            indices[name] = orders[name][:value]
        else:
            indices[name] = value
    return graph.checked_kept(indices)


class Reconstruction:
    """The least squares problems of all layers, factored once, for any channels kept.

    Each layer is to give back its own outputs in the original network, without the bias, from the
    activations of the original network that are left.

    Args:
        graph: The structure of the model.
        calibration: Gram matrices of ``repaired_layers(graph)``.
        orders: Channels of every group from best to worst; groups not named keep their order.
        ridge: Pull towards the original weights, relative to the mean square of an input.
        takes_grams: Whether the Gram matrices are taken out of the calibration one after the other,
            so that they and their factors, which are as large, are not all held at once.
        known: The problems of layers, by name, that need no Gram matrices, because they have been
            factored before, for the same orders.

    Raises:
        ValueError: An order is no permutation of its group's channels, or a layer was not
            calibrated, or was factored for another order.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        calibration: Calibration,
        orders: Mapping[str, Tensor],
        *,
        ridge: float = DEFAULT_RIDGE,
        takes_grams: bool = False,
        known: Mapping[str, Sequence[Problem]] | None = None,
    ) -> None:
        if ridge < 0:
            raise ValueError(f"ridge is {ridge}; give 0 or more")
        for name in orders:
            graph.group(name)
        self._graph = graph
        self._orders = {g.name: _checked_order(g, orders.get(g.name)) for g in graph.groups}
        modules = dict(graph.model.named_modules())
        self._layers: dict[str, LayerPlan] = {}
        for name in repaired_layers(graph):
            problems = (known or {}).get(name)
            if problems is None:
                grams = _grams(calibration, name, takes=takes_grams)
                problems = stated(modules[name], grams)
                # These names would keep a matrix that was taken out alive while the next is
                # factored.
                del grams
            sides = input_sides(graph, name), output_sides(graph, name)
            layer = LayerPlan(modules[name], problems, sides, orders=self._orders, ridge=ridge)
            del problems
            self._layers[name] = layer

    @property
    def problems(self) -> dict[str, list[Problem]]:
        """The problems of each part of a layer, factored where they are, by layer."""
        return {name: layer.problems for name, layer in self._layers.items()}

    def kept(self, keep: Mapping[str, Keep]) -> dict[str, Tensor]:
        """As :func:`kept_channels`, by the orders of this plan."""
        return kept_channels(self._graph, self._orders, keep)

    def weights(self, keep: Mapping[str, Keep]) -> dict[str, Tensor]:
        """New weights by layer name, in float64 and in the shapes of the compact network.

        The best-ranked channels of a group cost a triangular solve; other indices cost a small
        factorisation. Groups not named keep all channels. A layer that reads no removed channel is
        left out: its weights for the outputs that stay are still right.

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
        # All shapes are checked before the first weight is written, so that a network is never left
        # half repaired.
        for name, weight in self.weights(keep).items():
            target = modules[name].weight if name in modules else None
            if not isinstance(target, Tensor) or target.shape != weight.shape:
                raise ValueError(f"layer {name!r} of the compact network was cut to another size")
            writes.append((target, weight))
        for target, weight in writes:
            # Converted before it is copied, as the target's device may have no float64.
            target.copy_(weight.to(target.dtype))

    def errors(self, group: str) -> Tensor:
        """Relative residual of the layers that read a group, for 1, 2, ... all channels kept.

        Layers are weighted by the energy of their outputs; where a layer reads several groups, all
        channels of the others are kept. The ridge's penalty is not included.

        Raises:
            ValueError: There is no such group, or no layer that reads it is repaired.
        """
        each = self._losses(group).values()
        lost = torch.stack([lost.cpu() for lost, _ in each]).sum(0)
        energy = torch.stack([energy.cpu() for _, energy in each]).sum()
        return (lost / energy.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()

    def layer_errors(self, group: str) -> dict[str, Tensor]:
        """As ``errors``, for each layer that reads the group by itself, by its name."""
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


def _grams(calibration: Calibration, layer: str, *, takes: bool) -> Tensor:
    if layer not in calibration.grams:
        raise ValueError(f"layer {layer!r} was not calibrated; pass it to calibrate()")
    return calibration.grams.pop(layer) if takes else calibration.grams[layer]


def _readers(graph: ChannelGraph) -> tuple[str, ...]:
    """Layers that read a group, each once."""
    return tuple({c.module: None for group in graph.groups for c in group.consumers})


def _check_count(group: ChannelGroup, count: int) -> None:
    if count not in group.counts:
        raise ValueError(
            f"group {group.name!r} cannot keep {count!r} channels; give one of its counts, "
            f"from {group.counts[0]} to {group.counts[-1]}"
        )


def _checked_order(group: ChannelGroup, order: Tensor | None) -> Tensor:
    if order is None:
        return torch.arange(group.channels)
    if order.cpu().sort().values.tolist() != list(range(group.channels)):
        raise ValueError(
            f"the order of group {group.name!r} is no permutation of its {group.channels} channels"
        )
    return order.cpu()
