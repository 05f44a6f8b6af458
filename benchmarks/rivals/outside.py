"""torch-pruning's allocation: filters of all layers ranked together by their L1 norms.

Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023, and their library. ``layer``
scores a channel by its filter alone (Li et al., *Pruning Filters for Efficient ConvNets*, ICLR
2017), ``group`` by everything that goes with it. Scores are divided by their mean in each group,
the library's default, so that groups of different sizes can be ranked together.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch_pruning
from torch import nn

from amc_env import ChannelGraph

Score = Literal["layer", "group"]
# What tables call an allocation, and the score that it comes from.
SCORES: Mapping[str, Score] = {"torch-pruning, L1": "layer", "torch-pruning, group L1": "group"}

# To a thousandth of all channels.
_HALVINGS = 10


def globally_pruned(graph: ChannelGraph, *, score: Score, macs_ratio: float) -> nn.Module:
    """The network that torch-pruning makes with at most this ratio of the multiply-accumulates.

    Only the groups of ``graph`` are cut. The library is given a share of all channels; the largest
    share of kept channels that meets the ratio is found by bisection.
    """
    limit = macs_ratio * graph.cost().flops
    low, high = 0.0, 1.0
    best = _pruned(graph, score, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = _pruned(graph, score, middle)
        if graph.cost(widths_of(graph, tried)).flops <= limit:
            best, high = tried, middle
        else:
            low = middle
    return best


def widths_of(graph: ChannelGraph, pruned: nn.Module) -> dict[str, int]:
    """How many channels each group keeps in a pruned network, whoever pruned it."""
    return {
        group.name: len(pruned.get_submodule(group.name).get_parameter("weight"))
        for group in graph.groups
    }


def _pruned(graph: ChannelGraph, score: Score, sparsity: float) -> nn.Module:
    model = copy.deepcopy(graph.model)
    cut = {group.name for group in graph.groups}
    importance = torch_pruning.importance.MagnitudeImportance(
        p=1, group_reduction="first" if score == "layer" else "mean"
    )
    with _quiet():
        pruner = torch_pruning.pruner.BasePruner(
            model,
            graph.inputs[0],
            importance,
            global_pruning=True,
            pruning_ratio=sparsity,
            ignored_layers=list(_others(model, cut)),
        )
        pruner.step()
    return model.eval()


def _others(model: nn.Module, cut: Iterable[str]) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in cut:
            yield module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings about parts that are not cut here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
