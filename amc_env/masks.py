"""Unstructured pruning by magnitude, to compare with: weights are masked, no network is smaller.

Blalock et al., "What is the State of Neural Network Pruning?", 2020, compare pruned networks with
two baselines, which their framework ShrinkBench has. *Global* masks the weights that are smallest
in the whole network, *local* the same share of the smallest in every layer. As there, the
classifier is left whole, and the cost is the number of multiply-accumulates of weights that are
not masked, for one sample. Biases and norms are left whole too.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from amc_env.structure import ChannelGraph

Way = Literal["global", "local"]

# What PyTorch adds to the name of a weight that it masks.
_ORIGINAL = "_orig"


@dataclass(frozen=True, kw_only=True, eq=False)
class Masked:
    """A network with masks of ``torch.nn.utils.prune``, which training leaves as they are.

    Attributes:
        model: The network, of the size of the original.
        sparsity: Share of the weights of all convolutions and linear layers that are masked.
        macs: Multiply-accumulates of the weights that are not masked, for one sample.
        params: Parameters that are not masked.
    """

    model: nn.Module
    sparsity: float
    macs: int
    params: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weight:
    """A weight that may be masked.

    Attributes:
        module: What owns it.
        attribute: Its name there.
        values: Its entries.
        uses: How often one sample multiplies with each of them.
    """

    module: nn.Module
    attribute: str
    values: Tensor
    uses: int


@torch.no_grad()
def with_magnitude_masks(graph: ChannelGraph, way: Way, *, macs: int) -> Masked:
    """A copy of a network whose smallest weights are masked until so many MACs are left at most.

    Args:
        graph: The structure of the network.
        way: Whether weights are compared in the whole network or in each layer.
        macs: The most multiply-accumulates of weights that are not masked, for one sample.

    Raises:
        ValueError: The layers that are never masked cost more alone.
    """
    model = copy.deepcopy(graph.model)
    weights = _maskable(graph, model)
    cost = graph.cost()
    whole = cost.flops - sum(w.uses * w.values.numel() for w in weights.values())
    if macs < whole:
        raise ValueError(
            f"{macs} multiply-accumulates are to be left, but the layers that are not masked, "
            f"such as the classifier, have {whole}; give that many or more"
        )
    mask_ = _mask_globally_ if way == "global" else _mask_locally_
    mask_([*weights.values()], left=macs - whole)
    masks = {name: getattr(w.module, f"{w.attribute}_mask") for name, w in weights.items()}
    masked = {name: int((mask == 0).sum()) for name, mask in masks.items()}
    gone = sum(masked.values())
    return Masked(
        model=model,
        sparsity=gone / _layer_weights(graph),
        macs=cost.flops - sum(weights[name].uses * count for name, count in masked.items()),
        params=cost.params - gone,
    )


def fix_masks_(model: nn.Module) -> None:
    """Write the masks into the weights for good, after which the network is an ordinary one."""
    for module in model.modules():
        for name, _ in [*module.named_parameters(recurse=False)]:
            if prune.is_pruned(module) and name.endswith(_ORIGINAL):
                prune.remove(module, name.removesuffix(_ORIGINAL))


def _maskable(graph: ChannelGraph, model: nn.Module) -> Mapping[str, _Weight]:
    """The weights of all layers but the last one, which is the classifier, by name."""
    parameters = dict(model.named_parameters())
    found: dict[str, _Weight] = {}
    for layer in graph.layers:
        name = layer.weight
        if name is None or name not in parameters or name == graph.layers[-1].weight:
            continue
        # A module that runs twice is two layers with one weight.
        uses = layer.uses + (found[name].uses if name in found else 0)
        owner, _, attribute = name.rpartition(".")
        found[name] = _Weight(
            module=model.get_submodule(owner),
            attribute=attribute,
            values=parameters[name],
            uses=uses,
        )
    return found


def _layer_weights(graph: ChannelGraph) -> int:
    """How many entries the weights of all convolutions and linear layers have."""
    names = {layer.weight for layer in graph.layers}
    return sum(p.numel() for name, p in graph.model.named_parameters() if name in names)


def _mask_globally_(weights: list[_Weight], *, left: int) -> None:
    sizes = torch.cat([w.values.abs().flatten() for w in weights])
    uses = torch.cat([torch.full((w.values.numel(),), w.uses) for w in weights]).to(sizes.device)
    # From the largest weight on, as many stay as their multiply-accumulates allow.
    spent = uses[sizes.argsort(descending=True)].cumsum(0)
    gone = len(sizes) - int((spent <= left).sum())
    prune.global_unstructured(
        [(w.module, w.attribute) for w in weights], prune.L1Unstructured, amount=gone
    )


def _mask_locally_(weights: list[_Weight], *, left: int) -> None:
    share = left / sum(w.uses * w.values.numel() for w in weights)
    for w in weights:
        gone = max(0, ceil((1 - share) * w.values.numel()))
        prune.l1_unstructured(w.module, w.attribute, amount=gone)
