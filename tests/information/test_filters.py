import pytest
import torch

from amc_env.information.filters import capacity, filter_entropy, importance, independence


def test_equal_kernels_have_the_entropy_of_their_number() -> None:
    weight = torch.ones(2, 4, 3, 3)
    assert filter_entropy(weight).tolist() == pytest.approx([2.0, 2.0])
    assert filter_entropy(weight, normalize=True).tolist() == pytest.approx([1.0, 1.0])
    assert capacity(weight).tolist() == pytest.approx([-1.0, -1.0])


def test_a_filter_with_one_kernel_has_no_entropy() -> None:
    assert filter_entropy(torch.randn(3, 1, 3, 3)).tolist() == [0.0, 0.0, 0.0]


def test_independence_sums_the_distances_to_the_others() -> None:
    # Points 0, 3 and 4 on a line.
    weight = torch.tensor([[0.0], [3.0], [4.0]])
    assert independence(weight).tolist() == [7.0, 4.0, 5.0]
    assert independence(weight, nearest=1).tolist() == [3.0, 1.0, 1.0]


def test_importance_lies_between_0_and_1() -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    scores = importance(weight, sigma=0.5)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight has the shape \(3,\)"):
        independence(torch.zeros(3))
    with pytest.raises(ValueError, match="metric 'cosin' does not exist"):
        independence(torch.zeros(3, 2), metric="cosin")
