"""Linear maps over the channels of a group, written into the layers that make and read them.

Every rival that is not a mere choice of channels is such a pair of maps. A *make* (kept, channels)
turns the filters of a convolution into those of the compact network. A *read* (channels, kept) says
how the original channels are put together again from the kept ones; the layer that reads them takes
it into its weights, ``W' = W read``, so that nothing is computed for it later.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph, ChannelGroup, Member


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A group as the rivals know it: a convolution, its batch norm and the layers that read both.

    Attributes:
        name: Name of the group, and of the convolution.
        layer: The convolution in the original network.
        norm_name: Name of the batch norm.
        norm: The batch norm in the original network.
        readers: The layers that read the channels, by name, in the original network.
    """

    name: str
    layer: nn.Conv2d
    norm_name: str
    norm: nn.BatchNorm2d
    readers: Mapping[str, nn.Conv2d | nn.Linear]

    @property
    def filters(self) -> Tensor:
        """The weights that make each channel, in float64, (channels, inputs of the kernel)."""
        return self.layer.weight.detach().double().flatten(1)

    @property
    def statistics(self) -> "Statistics":
        """What the batch norm does to each channel."""
        return Statistics.of(self.norm)


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What a batch norm does to each channel, in float64, (channels,).

    It computes ``weight * (x - mean) / deviation + bias``.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "Statistics":
        """The running statistics and the affine parameters of a batch norm."""
        held = {name: tensor.double() for name, tensor in norm.state_dict().items()}
        return cls(
            mean=held["running_mean"],
            deviation=(held["running_var"] + norm.eps).sqrt(),
            weight=held["weight"],
            bias=held["bias"],
        )


def sites_of(graph: ChannelGraph) -> dict[str, Site]:
    """All groups of a network as sites, by name.

    Raises:
        ValueError: A group is no chain of one convolution, one batch norm and plain readers.
    """
    return {group.name: _site(graph, group) for group in graph.groups}


def selections(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The makes of plain pruning: filters that stay are taken as they are."""
    return {
        name: torch.eye(graph.group(name).channels, dtype=torch.float64)[indices]
        for name, indices in kept.items()
    }


@torch.no_grad()
def write_(
    compact: nn.Module,
    original: nn.Module,
    *,
    makes: Mapping[str, Tensor],
    reads: Mapping[str, Tensor],
) -> None:
    """Write the weights that follow from the original ones by these maps, by names of layers.

    Layers in neither mapping keep the weights that they have.
    """
    for name in {**makes, **reads}:
        layer, target = original.get_submodule(name), compact.get_submodule(name)
        weight = layer.get_parameter("weight").double()
        if name in reads:
            weight = torch.einsum("oc...,ck->ok...", weight, reads[name])
        if name in makes:
            weight = torch.einsum("ko,o...->k...", makes[name], weight)
            if isinstance(layer.bias, Tensor):
                target.get_parameter("bias").copy_(makes[name] @ layer.bias.double())
        target.get_parameter("weight").copy_(weight)


def _site(graph: ChannelGraph, group: ChannelGroup) -> Site:
    modules = dict(graph.model.named_modules())
    layer, names = modules.get(group.name), [member.module for member in group.followers]
    norm = modules.get(names[0]) if len(names) == len(group.producers) == 1 else None
    readers = {
        member.module: reader
        for member in group.consumers
        if isinstance(reader := modules.get(member.module), (nn.Conv2d, nn.Linear))
        and _reads_all(member, reader)
    }
    if (
        isinstance(layer, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and len(readers) == len(group.consumers)
    ):
        return Site(name=group.name, layer=layer, norm_name=names[0], norm=norm, readers=readers)
    raise ValueError(
        f"group {group.name!r} is no chain of one convolution, one batch norm and layers that read "
        "these channels alone, for which the rivals are written; let the graph ignore it"
    )


def _reads_all(member: Member, reader: nn.Conv2d | nn.Linear) -> bool:
    """Whether the inputs of a layer are the channels of the group, in order and nothing else."""
    places = torch.arange(reader.weight.shape[1])[:, None]
    return getattr(reader, "groups", 1) == 1 and torch.equal(member.positions, places)
