from itertools import product

import pytest
import torch
from pruning import tiny

from amc_env import ChannelGraph
from amc_env.latency.plan import (
    LEVELS,
    OFFSETS,
    check_levels,
    counts_of,
    designs,
    mixed_designs,
    offset_designs,
)
from amc_env.models import build_model

GRAPHS = {
    "tiny": ChannelGraph(tiny(), torch.randn(2, 1, 8, 8)),
    "resnet20": ChannelGraph(build_model("cifar_resnet20").eval(), torch.randn(2, 3, 32, 32)),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("levels", [3, 5, 7])
def test_every_layer_is_seen_at_all_pairs_of_its_levels(graph: ChannelGraph, levels: int) -> None:
    costs = [graph.cost(kept) for kept in designs(graph, levels)]
    assert len(costs) == levels**2
    made = {m.module: g for g in graph.groups for m in g.producers}
    read = {m.module: g for g in graph.groups for m in g.consumers}
    for number, layer in enumerate(costs[0].layers):
        seen = {(c.layers[number].inputs, c.layers[number].outputs) for c in costs}
        inputs, outputs = zip(*seen, strict=True)
        one, other = read.get(layer.name), made.get(layer.name)
        if one and other and one is not other:
            assert seen == set(product(set(inputs), set(outputs))), layer.name
            assert len(set(inputs)) >= min(levels, one.channels) - 1
        assert (layer.inputs, layer.outputs) == (max(inputs), max(outputs))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_mixed_networks_begin_with_the_whole_one_and_cut_groups_differently(
    graph: ChannelGraph,
) -> None:
    whole, *mixed = mixed_designs(graph)
    assert mixed_designs(graph) == [whole, *mixed]
    assert whole == {group.name: group.channels for group in graph.groups}
    costs = [graph.cost(kept).flops / graph.cost().flops for kept in mixed]
    assert min(costs) < 0.4 < 0.6 < max(costs) < 1.0
    widest = max(graph.groups, key=lambda group: group.channels)
    assert len({kept[widest.name] for kept in mixed}) > 5
    for kept in mixed:
        assert all(kept[group.name] in group.counts for group in graph.groups)
        assert len({kept[group.name] / group.channels for group in graph.groups}) > 1


def test_wide_groups_have_multiples_of_16_and_other_numbers() -> None:
    graph = ChannelGraph(build_model("cifar_vgg16").eval(), torch.randn(2, 3, 32, 32))
    wide = next(group for group in graph.groups if group.channels == 128)
    # Shares 1/4, 1/2 and 1; and 1/8, 3/8, 5/8 and 7/8, each 11 channels behind a multiple of 16.
    assert counts_of(wide, 7) == sorted([32, 64, 128, 27, 59, 91, 123])
    offsets = offset_designs(graph)
    assert list(offsets) == list(OFFSETS)
    assert [kept[wide.name] for kept in offsets.values()] == [32 + o for o in OFFSETS]
    assert offset_designs(GRAPHS["tiny"]) == {}


def test_numbers_of_levels_are_prime() -> None:
    for number in LEVELS:
        assert all(number % divisor for divisor in range(2, number))
        check_levels(number)
    with pytest.raises(ValueError, match="levels is 4; give one of 3, 5, 7, 11"):
        check_levels(4)
