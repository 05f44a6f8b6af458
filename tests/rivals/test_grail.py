"""GRAIL: the properties that its paper states."""

import pytest
import torch
from rivals.small import WIDTH, chain, copy_channels_, graph_of, images
from torch import Tensor

from benchmarks.rivals.grail import RIDGE, compensated, compensation, grams_of


@pytest.fixture
def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    return mixed @ torch.randn(4, 6, generator=generator, dtype=torch.float64).abs()


def test_nothing_changes_where_all_channels_stay() -> None:
    rows = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = compensation(rows.mT @ rows, torch.arange(6), ridge=0.0)
    assert torch.allclose(found, torch.eye(6, dtype=torch.float64))


def test_it_minimises_the_ridge_objective(rows: Tensor) -> None:
    kept = torch.tensor([0, 3, 4])
    gram = rows.mT @ rows
    found = compensation(gram, kept)
    penalty = RIDGE * gram[kept][:, kept].diagonal().mean()

    def objective(read: Tensor) -> float:
        return float(
            (rows - rows[:, kept] @ read.mT).square().sum() + penalty * read.square().sum()
        )

    best, generator = objective(found), torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            step = torch.randn(found.shape, generator=generator, dtype=torch.float64)
            assert objective(found + size * step) > best


def test_uncorrelated_channels_are_merely_selected() -> None:
    kept = torch.tensor([1, 2])
    gram = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    selected = torch.eye(3, dtype=torch.float64)[:, kept]
    assert torch.equal(compensation(gram, kept, ridge=0.0), selected)
    # With a ridge kept channels shrink, and still nothing stands for the one that went.
    assert compensation(gram, kept)[0].tolist() == [0.0, 0.0]


def test_gram_matrices_sum_over_images_and_pixels() -> None:
    model = chain()
    found = grams_of(model, {"3": model[3], "8": model[8]}, images(150))
    read = model[:3](images(150)).double()
    assert torch.allclose(found["3"], torch.einsum("nchw,ndhw->cd", read, read))
    pooled = model[:8](images(150)).double()
    assert torch.allclose(found["8"], pooled.mT @ pooled)


def test_a_network_of_equal_channels_loses_next_to_nothing() -> None:
    model = chain()
    half = torch.arange(WIDTH // 2)
    copy_channels_(model, 0, before=2.0, behind=0.7)
    graph = graph_of(model)
    wanted = model(images())
    error = (compensated(graph, {"0": half}, images())(images()) - wanted).norm() / wanted.norm()
    cut = (graph.compact({"0": half})(images()) - wanted).norm() / wanted.norm()
    # The ridge alone is left of the error.
    assert error < 0.01 < 0.1 < cut
