"""Model folding: projection, variance, and what it does to equal channels."""

import torch
from rivals.small import WIDTH, chain, copy_channels_, graph_of, images

from benchmarks.rivals.folding import clusters_of, folded, folded_variance, means_of

ROWS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_channel_is_in_one_cluster_and_no_cluster_is_empty() -> None:
    for rows in (ROWS, ROWS[:1].expand(7, 5)):
        clusters = clusters_of(rows, 4, seed=0)
        assert clusters.shape == (7, 4)
        assert clusters.sum(1).tolist() == [1.0] * 7
        assert clusters.sum(0).min() >= 1


def test_the_means_of_clusters_are_the_best_rows_for_them() -> None:
    clusters = clusters_of(ROWS, 3, seed=0)
    best = torch.linalg.lstsq(clusters, ROWS).solution
    assert torch.allclose(means_of(clusters) @ ROWS, best)


def test_folding_is_an_orthogonal_projection() -> None:
    clusters = clusters_of(ROWS, 3, seed=0)
    projection = clusters @ means_of(clusters)
    assert torch.allclose(projection @ projection, projection)
    assert torch.equal(projection, projection.mT)


def test_k_means_cannot_be_improved_by_moving_a_channel() -> None:
    clusters = clusters_of(ROWS, 3, seed=0)
    distances = torch.cdist(ROWS, means_of(clusters) @ ROWS)
    assert torch.equal(distances.argmin(1), clusters.argmax(1))


def test_the_variance_of_a_mean_is_that_of_correlated_channels() -> None:
    # Two filters at a cosine of 0.6, one of any length by itself: (1 + 0.6) / 2, and 1.
    filters = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 9.0]], dtype=torch.float64)
    clusters = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(
        folded_variance(filters, clusters), torch.tensor([0.8, 1.0], dtype=torch.float64)
    )


def test_folding_equal_channels_loses_nothing() -> None:
    model = chain()
    for place, reader in ((0, model[3]), (3, model[8])):
        # What is equal up to a factor before the norm is equal behind it, where channels are
        # averaged; the readers may weigh equal channels differently.
        copy_channels_(model, place, before=1.1, behind=1.0)
        with torch.no_grad():
            reader.weight[:, WIDTH // 2 :] = 1.2 * reader.weight[:, : WIDTH // 2]
    small = folded(graph_of(model), {"0": WIDTH // 2, "3": WIDTH // 2}, seed=0)
    assert len(small[0].weight) == len(small[3].weight) == WIDTH // 2
    assert torch.allclose(small(images()), model(images()), atol=1e-4)
