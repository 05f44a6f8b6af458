import pytest
import torch

from amc_env.criteria.ranking import ranking


def test_of_equal_scores_the_lower_index_stays() -> None:
    scores = torch.tensor([2.0, 5.0, 2.0, 5.0, 2.0])
    assert ranking(scores).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"the score of channel 1 is {bad}"):
        ranking(torch.tensor([1.0, bad]))


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one number for every channel"):
        ranking(torch.ones(2, 2))
