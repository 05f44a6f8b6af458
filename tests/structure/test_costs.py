import pytest
import torch
from structure.networks import NETWORKS, NORMS_OVER_CHANNELS, build
from zoo import architectures

from amc_env import ChannelGraph
from amc_env.structure.costs import CostPoint

ALL = {**NETWORKS, **NORMS_OVER_CHANNELS}


def walk(graph: ChannelGraph, steps: int) -> tuple[CostPoint, dict[str, int]]:
    """Change one group after the other to a random number; the point reached and its counts."""
    generator = torch.Generator().manual_seed(0)
    point, counts = graph.cost_point(), {g.name: g.channels for g in graph.groups}
    for step in range(steps):
        group = graph.groups[step % len(graph.groups)]
        counts[group.name] = int(torch.randint(1, group.channels + 1, (), generator=generator))
        point = point.with_counts({group.name: counts[group.name]})
    return point, counts


@pytest.mark.parametrize("name", ALL)
def test_changing_one_group_after_the_other_gives_the_cost_of_the_built_network(name: str) -> None:
    graph = ChannelGraph(*build(ALL, name))
    point, counts = walk(graph, 2 * len(graph.groups) + 1)
    assert point.counts == counts
    assert point.cost == graph.cost(counts)
    compact = graph.compact({group: range(count) for group, count in counts.items()})
    assert point.cost.params == sum(p.numel() for p in compact.parameters())


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in {"cifar_resnet20", "resnext50_32x4d"}
        else pytest.param(name, marks=pytest.mark.slow)
        for name in architectures.ARCHITECTURES
    ],
)
def test_the_cost_of_a_walk_is_that_of_a_direct_way(name: str) -> None:
    graph = ChannelGraph(*architectures.build(architectures.ARCHITECTURES[name]))
    point, counts = walk(graph, 2 * len(graph.groups) + 1)
    assert point.cost == graph.cost(counts)
    back = point.with_counts({g.name: g.channels for g in graph.groups})
    assert back.cost == graph.cost()


def test_a_point_is_not_changed_by_asking_for_another() -> None:
    graph = ChannelGraph(*build(NETWORKS, "residual"))
    point = graph.cost_point({"stem": 4})
    point.with_counts({"stem": 2, "a": 1})
    assert point.cost == graph.cost({"stem": 4})
    assert point.counts == {"stem": 4, "a": 6}


def test_a_point_by_hand() -> None:
    # Per sample of 8 x 8 pixels: stem 3 -> 8 and a 8 -> 6, b 6 -> 8, each 3 x 3; head 8 -> 5.
    graph = ChannelGraph(*build(NETWORKS, "residual"))
    cost = graph.cost_point({"stem": 4}).with_counts({"a": 2}).cost
    flops = {layer.name: layer.flops for layer in cost.layers}
    assert flops == {"stem": 64 * 27 * 4, "a": 64 * 36 * 2, "b": 64 * 18 * 4, "head": 4 * 5}
    # Weights, biases, and the two parameters of each channel of the norm.
    assert cost.params == (27 * 4 + 4) + 2 * 4 + (36 * 2 + 2) + (18 * 4 + 4) + (4 * 5 + 5)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"stam": 1}, "there is no group 'stam'"),
        ({"stem": 9}, "group 'stem' cannot keep 9 channels; give 0 .* to 8"),
        ({"stem": -1}, "group 'stem' cannot keep -1 channels"),
    ],
)
def test_a_point_refuses_what_the_network_does_not_have(kept: dict[str, int], message: str) -> None:
    point = ChannelGraph(*build(NETWORKS, "residual")).cost_point()

    with pytest.raises(ValueError, match=message):
        point.with_counts(kept)
