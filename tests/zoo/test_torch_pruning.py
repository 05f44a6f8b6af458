"""torch-pruning as an independent oracle, on networks that it handles."""

import copy

import pytest
import torch
import torch_pruning
from zoo.architectures import ARCHITECTURES, build

from amc_env import ChannelGraph


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("vgg16_bn", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_both_cut_the_same_network(name: str) -> None:
    model, x = build(ARCHITECTURES[name])
    graph = ChannelGraph(model, x)
    generator = torch.Generator().manual_seed(0)
    for group in graph.groups[:: max(1, len(graph.groups) // 4)]:
        gone = torch.randperm(group.channels, generator=generator)[: group.channels // 2]
        kept = [c for c in range(group.channels) if c not in set(gone.tolist())]
        theirs = copy.deepcopy(model)
        dependencies = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=x)
        layer = dict(theirs.named_modules())[group.producers[0].module]
        prune = torch_pruning.prune_conv_out_channels
        if isinstance(layer, torch.nn.Linear):
            prune = torch_pruning.prune_linear_out_channels
        dependencies.get_pruning_group(layer, prune, idxs=gone.tolist()).prune()
        ours = graph.compact({group.name: kept})
        shapes = {key: p.shape for key, p in theirs.named_parameters()}
        assert {key: p.shape for key, p in ours.named_parameters()} == shapes
        with torch.no_grad():
            expected = theirs(x)
            assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
