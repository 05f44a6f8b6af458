"""What every layer of a pruned network keeps and costs, as tables for people."""

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from amc_env.export.finished import Finished
from amc_env.files import write_text
from amc_env.structure import ChannelGraph, Member

YAML_FILE = "layers.yaml"
CSV_FILE = "layers.csv"


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


def layer_changes(run: Finished) -> list[LayerChange]:
    """Every conv and linear layer in execution order."""
    graph = run.graph
    before, after = graph.cost().layers, graph.cost(run.policy.counts).layers
    gone = _gone_channels(graph, run.policy.kept)
    changes = []
    for use, old, new in zip(graph.layers, before, after, strict=True):
        groups = gone.get(use.name, {})
        kept = use.outputs - sum(groups.values())
        changes.append(
            LayerChange(
                layer=use.name,
                group=" ".join(groups),
                channels=use.outputs,
                kept=kept,
                sparsity=round(1 - kept / use.outputs, 4),
                macs_before=old.flops,
                macs_after=new.flops,
                params_before=old.params,
                params_after=new.params,
            )
        )
    return changes


def write_csv(run: Finished, out: Path) -> list[Path]:
    """Write ``layers.csv``: one line for each layer."""
    text = io.StringIO()
    names = [field.name for field in fields(LayerChange)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(change) for change in layer_changes(run))
    write_text(out / CSV_FILE, text.getvalue())
    return [out / CSV_FILE]


def write_yaml(run: Finished, out: Path) -> list[Path]:
    """Write ``layers.yaml``: the whole network, then one line for each layer."""
    # JSON is YAML, so the package need not depend on a writer of YAML.
    lines = [f"{name}: {json.dumps(value)}" for name, value in _network(run).items()]
    layers = [f"- {json.dumps(asdict(change))}" for change in layer_changes(run)]
    write_text(out / YAML_FILE, "\n".join([*lines, "layers:", *layers]) + "\n")
    return [out / YAML_FILE]


def _network(run: Finished) -> dict[str, Any]:
    policy, graph = run.policy, run.graph
    before, after = graph.cost(), graph.cost(policy.counts)
    known = {
        "model": policy.model,
        "criterion": policy.criterion,
        "seed": policy.seed,
        "accuracy": policy.accuracy,
        "measured_on": policy.measured_on,
        "macs_before": before.flops,
        "macs_after": after.flops,
        "params_before": before.params,
        "params_after": after.params,
    }
    return {name: value for name, value in known.items() if value is not None}


def _gone_channels(graph: ChannelGraph, kept: dict[str, Tensor]) -> dict[str, dict[str, int]]:
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
