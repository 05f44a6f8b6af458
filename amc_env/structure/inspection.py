"""What can be pruned in a model, for people and for programs."""

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from amc_env.structure import ChannelGraph, ChannelGroup, Member


def summary(name: str, graph: ChannelGraph) -> dict[str, Any]:
    """Everything ``inspect`` shows, as plain numbers and strings for JSON."""
    cost = graph.cost()
    return {
        "model": name,
        "input_shape": list(graph.inputs[0].shape[1:]),
        "flops_unit": "multiply-accumulates of conv and linear layers for one sample",
        "flops": cost.flops,
        "params": cost.params,
        "groups": [_group_summary(graph, group) for group in graph.groups],
        "frozen": [
            {"name": f.name, "channels": f.channels, "reason": f.reason} for f in graph.frozen
        ],
        "layers": [
            {"name": x.name, "kind": x.kind, "flops": x.flops, "params": x.params}
            for x in cost.layers
        ],
    }


def tables(name: str, graph: ChannelGraph) -> RenderableType:
    """The groups and the frozen channels as tables for a terminal."""
    return Group(_group_table(name, graph), _frozen_table(graph))


def _group_summary(graph: ChannelGraph, group: ChannelGroup) -> dict[str, Any]:
    share = graph.share(group.name)
    return {
        "name": group.name,
        "channels": group.channels,
        "producers": [m.module for m in group.producers],
        "consumers": [m.module for m in group.consumers],
        "followers": [{"name": m.module, "kind": m.kind} for m in group.followers],
        "flops": share.flops,
        "params": share.params,
        "has_channel_norm": group.has_channel_norm,
    }


def _group_table(name: str, graph: ChannelGraph) -> Table:
    cost = graph.cost()
    shape = " x ".join(str(size) for size in graph.inputs[0].shape[1:])
    table = Table(
        title=f"{name}, input {shape}: {len(graph.groups)} groups of channels that can be cut",
        caption=(
            f"{cost.flops:,} MACs (multiply-accumulates of conv and linear layers, one sample), "
            f"{cost.params:,} parameters. A group's MACs and parameters are those that depend "
            "on its channels; layers between two groups count for both."
        ),
    )
    table.add_column("group", no_wrap=True)
    table.add_column("channels", justify="right")
    table.add_column("made by", overflow="fold")
    table.add_column("read by", overflow="fold")
    table.add_column("MACs", justify="right")
    table.add_column("params", justify="right")
    for group in graph.groups:
        share = graph.share(group.name)
        table.add_row(
            group.name,
            str(group.channels),
            _names(group.producers, known=group.name),
            _names(group.consumers, known=""),
            f"{share.flops / cost.flops:.1%}",
            f"{share.params / cost.params:.1%}",
        )
    return table


def _names(members: tuple[Member, ...], *, known: str) -> str:
    """The first name, unless it is the row's own, and how many more there are."""
    first, *others = [member.module for member in members] or ["nothing"]
    name = "itself" if first == known else first
    return f"{name} +{len(others)}" if others else name


def _frozen_table(graph: ChannelGraph) -> Table:
    table = Table(title="channels that stay")
    table.add_column("layers", justify="right")
    table.add_column("channels", justify="right")
    table.add_column("first layer", overflow="fold")
    table.add_column("why", overflow="fold")
    layers = Counter(f.reason for f in graph.frozen)
    # A network can have hundreds of frozen layers, for a handful of reasons.
    for reason, count in layers.items():
        same = [f for f in graph.frozen if f.reason == reason]
        channels = sum(f.channels for f in same)
        table.add_row(str(count), str(channels), same[0].name, reason)
    return table
