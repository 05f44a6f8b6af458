"""Neuron merging: lossless for positive multiples, and what it leaves out."""

import torch
from rivals.small import WIDTH, chain, copy_channels_, graph_of, images

from benchmarks.rivals.channels import Statistics
from benchmarks.rivals.neuron_merging import merged, merging

HALF = torch.arange(WIDTH // 2)
PLAIN = Statistics(
    mean=torch.zeros(3).double(),
    deviation=torch.ones(3).double(),
    weight=torch.ones(3).double(),
    bias=torch.zeros(3).double(),
)


def test_positive_multiples_leave_the_output_unchanged() -> None:
    model = chain()
    copy_channels_(model, 0, before=3.0, behind=0.6)
    copy_channels_(model, 3, before=0.5, behind=2.0)
    graph = graph_of(model)
    kept = {"0": HALF, "3": HALF}
    wanted = model(images())
    assert torch.allclose(merged(graph, kept)(images()), wanted, atol=1e-5)
    assert not torch.allclose(graph.compact(kept)(images()), wanted, atol=0.1)


def test_a_filter_is_taken_for_the_nearest_one_by_the_ratio_of_norms() -> None:
    filters = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
    found = merging(5 * filters, PLAIN, torch.tensor([0, 1]))
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    filters[2] *= 4
    assert torch.allclose(merging(filters, PLAIN, torch.tensor([0, 1]))[2], 4 * found[2])


def test_a_filter_unlike_all_that_stay_is_dropped() -> None:
    filters = torch.tensor([[1.0, 0.0], [-1.0, 0.05], [0.0, 1.0]], dtype=torch.float64)
    assert merging(filters, PLAIN, torch.tensor([0]))[1:].tolist() == [[0.0], [0.0]]


def test_a_negative_factor_is_never_merged() -> None:
    model = chain()
    copy_channels_(model, 0, before=1.0, behind=-1.0)
    filters = model[0].weight.detach().double().flatten(1)
    norm = Statistics.of(model[1])
    found = merging(filters, norm, HALF)
    # The equal filters behind a norm of the other sign are passed over.
    assert found[len(HALF) :].diagonal().tolist() == [0.0] * len(HALF)
    assert (found >= 0).all()


def test_equal_filters_are_told_apart_by_what_the_norms_add() -> None:
    filters = torch.ones(3, 2, dtype=torch.float64)
    norm = Statistics(
        mean=PLAIN.mean,
        deviation=PLAIN.deviation,
        weight=PLAIN.weight,
        bias=torch.tensor([1.0, 0.1, 0.0]).double(),
    )
    assert merging(filters, norm, torch.tensor([0, 1]))[2].tolist() == [0.0, 1.0]
