from itertools import combinations

import pytest
import torch

from amc_env.repair.alignment import aligned, row_similarities


def test_similarity_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0]])
    # The same, twice as long (2 * 50 / (25 + 100)), orthogonal, and the opposite.
    others = torch.tensor([[3.0, 4.0], [6.0, 8.0], [4.0, -3.0], [-3.0, -4.0]])
    assert row_similarities(rows, others)[0].tolist() == pytest.approx([1, 0.8, 0, -1], abs=2e-3)


def test_rows_that_are_next_to_nothing_are_equal() -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-9, -1e-9]])
    others = torch.tensor([[-1e-8, 0.0], [1.0, 1.0]])
    assert row_similarities(rows, others)[:, 0].tolist() == pytest.approx([1, 1])
    assert row_similarities(rows, others)[:, 1].abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_no_ascending_choice_of_columns_is_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 7, (), generator=generator))
    scores = torch.randn(rows, 7, generator=generator)
    sums = {
        columns: float(scores[range(rows), columns].sum())
        for columns in combinations(range(7), rows)
    }
    assert tuple(aligned(scores).tolist()) == max(sums, key=lambda columns: sums[columns])


def test_equal_scores_still_give_ascending_columns() -> None:
    columns = aligned(torch.zeros(3, 5))
    assert columns.tolist() == sorted(set(columns.tolist()))
