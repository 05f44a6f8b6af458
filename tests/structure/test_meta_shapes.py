"""Shapes that are computed here are those that torch computes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from amc_env.structure.meta_shapes import known_result


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "plain": (meta(2, 6, 9, 11), meta(8, 6, 3, 3)),
    "strided": (meta(2, 6, 9, 11), meta(8, 6, 3, 5), meta(8), (2, 3), (1, 2)),
    "dilated": (meta(2, 6, 20, 20), meta(8, 6, 3, 3), None, 2, 1, (3, 1)),
    "grouped": (meta(2, 6, 9, 9), meta(9, 2, 3, 3), None, [1], [0], [1], 3),
    "one dimension": (meta(2, 6, 30), meta(8, 6, 3), meta(8), (2,), (1,)),
    "three dimensions": (meta(2, 6, 5, 5, 5), meta(8, 6, 3, 3, 3), None, 2),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_has_the_shape_that_torch_gives_it(case: str) -> None:
    args = CONVOLUTIONS[case]
    name = f"conv{args[0].dim() - 2}d"
    found = known_result(name, args, {})
    assert found is not None
    assert found.shape == getattr(F, name)(*args).shape
    assert found.is_meta


@pytest.mark.parametrize(
    "args",
    [
        (meta(2, 6, 9, 9), meta(8, 5, 3, 3)),
        (meta(2, 6, 9, 9), meta(8, 6, 3, 3), meta(7)),
        (meta(2, 6, 2, 2), meta(8, 6, 3, 3)),
        (meta(2, 6, 9, 9), meta(8, 6, 3, 3).double()),
        (meta(2, 6, 9, 9), meta(8, 3, 3, 3), None, 1, 0, 1, 3),
    ],
    ids=["channels", "bias", "too small", "type", "groups"],
)
def test_what_does_not_fit_is_left_to_torch_to_refuse(args: tuple[Any, ...]) -> None:
    assert known_result("conv2d", args, {}) is None


def test_values_and_words_are_left_to_torch() -> None:
    x, weight = meta(2, 6, 9, 9), meta(8, 6, 3, 3)
    assert known_result("conv2d", (torch.ones(2, 6, 9, 9), weight), {}) is None
    assert known_result("conv2d", (x, weight, None, 1, "same"), {}) is None
    assert known_result("add", (x, meta(6, 9, 9)), {}) is None
    assert known_result("relu", (x,), {}).shape == x.shape
