"""What a run knows of its layers and channels when it ends, in a file that a page is made of."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from amc_env.env import ChannelPruningEnv
from amc_env.structure import ChannelGraph

DETAILS_FILE = "details.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerDetails(_Record):
    """What a convolution or linear layer costs in the original and in the pruned network."""

    name: str
    macs: int
    macs_left: int
    params: int
    params_left: int


class GroupDetails(_Record):
    """The channels of a group: how they were ranked, and what keeping fewer of them costs.

    Attributes:
        channels: Number of channels in the original network.
        kept: Number of channels that stay.
        scores: The criterion's score of every channel.
        errors: The squared relative error of the plain repair for 1, 2, ... channels kept, summed
            over the layers that read the group.
    """

    name: str
    channels: int
    kept: int
    scores: tuple[float, ...]
    errors: tuple[float, ...]


class Details(_Record):
    """The layers in execution order, and the groups in the order in which they are decided."""

    layers: tuple[LayerDetails, ...]
    groups: tuple[GroupDetails, ...]


def details_of(env: ChannelPruningEnv, counts: Mapping[str, int]) -> Details:
    """The details of the network that keeps these numbers of channels."""
    pruner = env.pruner
    groups = [
        GroupDetails(
            name=group.name,
            channels=group.channels,
            kept=counts[group.name],
            scores=tuple(pruner.scores[group.name].tolist()),
            errors=tuple(pruner.squared_errors(group.name).tolist()),
        )
        for group in env.graph.groups
    ]
    return Details(layers=_layers(env.graph, counts), groups=tuple(groups))


def _layers(graph: ChannelGraph, counts: Mapping[str, int]) -> tuple[LayerDetails, ...]:
    pairs = zip(graph.cost().layers, graph.cost(counts).layers, strict=True)
    return tuple(
        LayerDetails(
            name=whole.name,
            macs=whole.flops,
            macs_left=left.flops,
            params=whole.params,
            params_left=left.params,
        )
        for whole, left in pairs
    )
