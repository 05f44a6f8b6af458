"""What a run knows of its layers and channels when it ends, in a file that a page is made of."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from amc_env.env import ChannelPruningEnv
from amc_env.latency.in_place import LayerLatency
from amc_env.policy import Policy
from amc_env.structure.changes import LayerChange, layer_changes

DETAILS_FILE = "details.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupDetails(_Record):
    """The channels of a group: how they were ranked, and what keeping fewer of them costs.

    Attributes:
        channels: Number of channels in the original network.
        kept: Number of channels that stay.
        scores: The criterion's score of every channel.
        errors: The squared relative error of the plain repair for 1, 2, ... channels kept, summed
            over the layers that read the group; empty where nothing is repaired.
    """

    name: str
    channels: int
    kept: int
    scores: tuple[float, ...]
    errors: tuple[float, ...]


class Details(_Record):
    """What a page is made of.

    Attributes:
        layers: In execution order.
        groups: In the order in which they are decided.
        latencies: Of every layer, for one sample on one thread; empty where they are not measured.
    """

    layers: tuple[LayerChange, ...]
    groups: tuple[GroupDetails, ...]
    latencies: tuple[LayerLatency, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether the errors of the repair are known."""
        return all(group.errors for group in self.groups)


def details_of(
    env: ChannelPruningEnv, policy: Policy, latencies: Sequence[LayerLatency] = ()
) -> Details:
    """The details of the network of a policy, with what was measured of its layers."""
    pruner = env.pruner
    # Without a repair, nobody has summed up what its errors are computed from.
    is_repaired = pruner.repair.is_on
    groups = [
        GroupDetails(
            name=group.name,
            channels=group.channels,
            kept=policy.counts[group.name],
            scores=tuple(pruner.scores[group.name].tolist()),
            errors=tuple(pruner.squared_errors(group.name).tolist()) if is_repaired else (),
        )
        for group in env.graph.groups
    ]
    layers = layer_changes(env.graph, policy.kept)
    return Details(layers=tuple(layers), groups=tuple(groups), latencies=tuple(latencies))
