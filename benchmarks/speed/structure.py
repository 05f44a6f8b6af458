"""Analysis, compaction and costs, beside torch-pruning."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch_pruning
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.models import find_model
from benchmarks.speed.records import Case, Prepared, Size, Way, medians

FULL = ("resnet50", "mobilenet_v2", "resnet18", "cifar_resnet56", "cifar_vgg16")
SHORT = ("cifar_resnet20",)


def network(name: str, size: Size) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, and one random image for it."""
    torch.manual_seed(0)
    found = find_model(name)
    channels, height, width = found.input_shape or (3, 224, 224)
    return found.model.to(size.device).eval(), torch.randn(
        1, channels, height, width, device=size.device
    )


def halves(graph: ChannelGraph) -> dict[str, list[int]]:
    """The first half of every group's channels."""
    return {g.name: list(range((g.channels + 1) // 2)) for g in graph.groups}


def _dependencies(model: nn.Module, x: Tensor) -> None:
    torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)


def _step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """What cuts half the channels of a copy, whose dependencies are found already."""
    memo: dict[int, object] = {}
    twin = copy.deepcopy(model, memo)
    last = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        twin,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[memo[id(last)]],
    )
    step: Callable[[], object] = pruner.step
    return step


def analysis(size: Size) -> Iterator[Case]:
    """``ChannelGraph`` and torch-pruning's dependency graph."""
    for name in size.of(FULL, SHORT):
        model, x = network(name, size)
        ways: dict[str, Way] = {
            "amc_env s": partial(ChannelGraph, model, x),
            "torch-pruning s": partial(_dependencies, model, x),
        }
        taken = medians(ways, size)
        taken["times torch-pruning's"] = taken["amc_env s"] / taken["torch-pruning s"]
        yield Case(name=name, values=taken)


def compaction(size: Size) -> Iterator[Case]:
    """A network with half of every group's channels, and torch-pruning's step to the same."""
    for name in size.of(FULL, SHORT):
        model, x = network(name, size)
        graph = ChannelGraph(model, x)
        kept = graph.checked_kept(halves(graph))
        ways: dict[str, Way] = {
            "amc_env s": partial(graph.compact, kept),
            "torch-pruning s": Prepared(partial(_step, model, x)),
        }
        taken = medians(ways, size)
        taken["times as fast"] = taken["torch-pruning s"] / taken["amc_env s"]
        yield Case(name=name, values=taken)


def costs(size: Size) -> Iterator[Case]:
    """Costs of policies: of all groups anew, and with one group changed."""
    for name in size.of(FULL, SHORT):
        graph = ChannelGraph(*network(name, size))
        counts = {group: len(kept) for group, kept in halves(graph).items()}
        point = graph.cost_point(counts)
        changed = {graph.groups[0].name: 1}
        ways: dict[str, Way] = {
            "all groups": partial(graph.cost, counts),
            "one group": partial(point.with_counts, changed),
        }
        taken = medians(ways, size)
        yield Case(name=name, values={f"{way}, a second": 1 / s for way, s in taken.items()})
