"""What every layer of a pruned network keeps and costs."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from amc_env.structure.graph import ChannelGraph
from amc_env.structure.records import Member


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """One conv or linear layer in the original and in the pruned network.

    Attributes:
        layer: Its name.
        group: The groups that its output channels belong to, parted by spaces; empty if they all
            stay.
        channels: Number of output channels in the original.
        kept: Number of output channels in the pruned network.
        sparsity: 1 - kept / channels.
        macs_before: Multiply-accumulates for one sample in the original.
        macs_after: The same in the pruned network.
        params_before: Parameters of the layer in the original.
        params_after: The same in the pruned network.
    """

    layer: str
    group: str
    channels: int
    kept: int
    sparsity: float
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int


def layer_changes(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> list[LayerChange]:
    """Every conv and linear layer in execution order, where groups keep these channels."""
    counts = {name: len(channels) for name, channels in kept.items()}
    before, after = graph.cost().layers, graph.cost(counts).layers
    gone = _gone_channels(graph, kept)
    changes = []
    for use, old, new in zip(graph.layers, before, after, strict=True):
        groups = gone.get(use.name, {})
        left = use.outputs - sum(groups.values())
        changes.append(
            LayerChange(
                layer=use.name,
                group=" ".join(groups),
                channels=use.outputs,
                kept=left,
                sparsity=round(1 - left / use.outputs, 4),
                macs_before=old.flops,
                macs_after=new.flops,
                params_before=old.params,
                params_after=new.params,
            )
        )
    return changes


def _gone_channels(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """How many outputs of every layer go with each of its groups."""
    gone: dict[str, dict[str, int]] = {}
    for group in graph.groups:
        removed = group.channels - len(kept.get(group.name, range(group.channels)))
        for member in _members_with_outputs(group.producers, group.followers):
            # A channel has several places where one tensor is concatenated twice, for example.
            places = member.positions.numel() // group.channels
            of_layer = gone.setdefault(member.module, {})
            of_layer[group.name] = of_layer.get(group.name, 0) + removed * places
    return gone


def _members_with_outputs(
    producers: tuple[Member, ...], followers: tuple[Member, ...]
) -> list[Member]:
    """The layers that make a group's channels, and the depthwise ones that pass them on."""
    return [*producers, *(member for member in followers if member.layer is not None)]
