"""What an agent sees before it decides a group: AMC's features, each from 0 to 1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc_env.structure import ChannelGraph, ChannelGroup, Cost, LayerUse

AMC_FEATURES = (
    "index",
    "is_conv",
    "is_depthwise",
    "is_linear",
    "channels_in",
    "channels_out",
    "spatial_size",
    "stride",
    "kernel",
    "flops",
    "flops_removed",
    "flops_ahead",
    "last_sparsity",
    "target",
)
# Shares of channels kept, and the features that tell what the plain repair then loses.
_SHARES = {"error_at_75": 0.75, "error_at_50": 0.5, "error_at_25": 0.25}


def macs_by_layer(cost: Cost) -> list[float]:
    """The multiply-accumulates of every layer."""
    return [float(layer.flops) for layer in cost.layers]


def feature_names(*, has_errors: bool) -> tuple[str, ...]:
    """The names of the features, in their order."""
    return AMC_FEATURES + (tuple(_SHARES) if has_errors else ())


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """The layer that reads a group, in numbers."""

    kind: str
    channels_out: int
    spatial_size: float
    stride: int
    kernel: int


class Observer:
    """Builds observations for the groups of one network.

    Each feature is divided by its greatest value in the network, as in AMC (section 3.1), so all
    lie in [0, 1]. The layer described is the first that reads the group.

    Args:
        graph: The structure of the model.
        target: Ratio of the cost that may be left; 1 without a budget.
        costs: What every layer costs; with a budget for latency, predicted milliseconds instead of
            multiply-accumulates.
        errors: By group, the squared errors of the repair for 1, 2, ... channels kept, for features
            that are not AMC's; none if None.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        *,
        target: float,
        costs: Callable[[Cost], Sequence[float]] = macs_by_layer,
        errors: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        self.names = feature_names(has_errors=errors is not None)
        self._errors = {
            group.name: _errors_at_shares(errors[group.name]) if errors is not None else {}
            for group in graph.groups
        }
        self._graph = graph
        self._target = target
        full = graph.cost()
        self._costs = costs
        names = [layer.name for layer in full.layers]
        self._flops = dict(zip(names, costs(full), strict=True))
        self._total = sum(costs(full))
        layers = {layer.name: layer for layer in graph.layers}
        self._layers = [_describe(group, layers) for group in graph.groups]
        self._settled_by = _last_groups(graph)
        self._greatest = {
            "channels_in": max(group.channels for group in graph.groups),
            "channels_out": max(layer.channels_out for layer in self._layers),
            "spatial_size": max(layer.spatial_size for layer in self._layers),
            "stride": max(layer.stride for layer in self._layers),
            "kernel": max(layer.kernel for layer in self._layers),
        }

    def observe(
        self, index: int, decided: Mapping[str, int], *, last_sparsity: float
    ) -> NDArray[np.float32]:
        """The observation before the group at ``index`` is decided; zeros behind the last."""
        if index == len(self._layers):
            return np.zeros(len(self.names), dtype=np.float32)
        group, layer = self._graph.groups[index], self._layers[index]
        cost = self._graph.cost(decided)
        by_layer = list(zip(cost.layers, self._costs(cost), strict=True))
        ahead = sum(mine for c, mine in by_layer if self._settled_by.get(c.name, -1) > index)
        reader = _reader(group)
        features = {
            "index": index / max(1, len(self._layers) - 1),
            "is_conv": float(layer.kind == "conv"),
            "is_depthwise": float(layer.kind == "depthwise"),
            "is_linear": float(layer.kind == "linear"),
            "channels_in": group.channels / self._greatest["channels_in"],
            "channels_out": layer.channels_out / self._greatest["channels_out"],
            "spatial_size": layer.spatial_size / self._greatest["spatial_size"],
            "stride": layer.stride / self._greatest["stride"],
            "kernel": layer.kernel / self._greatest["kernel"],
            "flops": self._flops.get(reader, 0) / max(self._flops.values()),
            "flops_removed": 1.0 - sum(mine for _, mine in by_layer) / self._total,
            "flops_ahead": ahead / self._total,
            "last_sparsity": last_sparsity,
            "target": self._target,
            **self._errors[group.name],
        }
        # A latency can rise a little where a channel is cut.
        found = np.array([features[name] for name in self.names], dtype=np.float32)
        return np.clip(found, 0.0, 1.0)


def _errors_at_shares(squared: NDArray[np.float64]) -> dict[str, float]:
    """The relative errors where these shares of the channels are kept, at most 1."""
    kept = {name: max(1, round(share * len(squared))) for name, share in _SHARES.items()}
    return {name: float(min(1.0, squared[count - 1] ** 0.5)) for name, count in kept.items()}


def _reader(group: ChannelGroup) -> str:
    """The layer that an observation describes; a group that nothing reads describes its maker."""
    return (group.consumers or group.producers)[0].module


def _describe(group: ChannelGroup, layers: Mapping[str, LayerUse]) -> _Layer:
    layer = layers[_reader(group)]
    if any("depthwise" in follower.kind for follower in group.followers):
        kind = "depthwise"
    else:
        kind = "linear" if layer.kind == "linear" else "conv"
    return _Layer(
        kind=kind,
        channels_out=layer.outputs,
        # A weight is used once for every pixel of the output.
        spatial_size=max(1.0, layer.uses) ** 0.5,
        stride=layer.stride,
        kernel=max(layer.shape[2:], default=1),
    )


def _last_groups(graph: ChannelGraph) -> dict[str, int]:
    """By layer the number of the last group that it reads: when its cost is settled."""
    return {
        consumer.module: index
        for index, group in enumerate(graph.groups)
        for consumer in group.consumers
    }
