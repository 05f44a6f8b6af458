"""torch-pruning's networks."""

import pytest
import torch
from rivals.small import WIDTH, chain, graph_of, images

from benchmarks.rivals.outside import Score, globally_pruned, widths_of


@pytest.mark.parametrize("score", ["layer", "group"])
def test_it_meets_the_budget_and_wastes_less_than_a_channel(score: Score) -> None:
    graph = graph_of(chain())
    pruned = globally_pruned(graph, score=score, macs_ratio=0.5)
    widths = widths_of(graph, pruned)
    assert pruned(images()).shape == (40, 4)
    assert graph.cost(widths).flops <= 0.5 * graph.cost().flops
    assert any(
        graph.cost({**widths, name: width + 1}).flops > 0.5 * graph.cost().flops
        for name, width in widths.items()
        if width < WIDTH
    )


def test_of_a_layer_the_filters_with_the_greatest_l1_norms_stay() -> None:
    model = chain()
    graph = graph_of(model)
    pruned = globally_pruned(graph, score="layer", macs_ratio=0.6)
    width = len(pruned[0].weight)
    best = model[0].weight.abs().sum((1, 2, 3)).topk(width).indices.sort().values
    assert torch.equal(pruned[0].weight, model[0].weight[best])


def test_the_original_is_left_alone() -> None:
    model = chain()
    before = model(images())
    globally_pruned(graph_of(model), score="group", macs_ratio=0.5)
    assert torch.equal(model(images()), before)
