from collections.abc import Sequence

import pytest
import torch
from torch import nn

from amc_env.models.vgg import CifarVgg


def test_vgg16_is_13_convolutions_5_pools_and_one_linear_layer() -> None:
    kinds = [type(module) for module in CifarVgg().modules()]
    assert [kinds.count(kind) for kind in (nn.Conv2d, nn.MaxPool2d, nn.Linear)] == [13, 5, 1]


def test_its_widths_can_be_chosen() -> None:
    model = CifarVgg(widths=((3,), (5, 4), (6,))).eval()
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [3, 5, 4, 6]
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("widths", [(), ((),), ((64,), (0,))])
def test_widths_that_cannot_be_are_refused(widths: Sequence[Sequence[int]]) -> None:
    with pytest.raises(ValueError, match="every stage of a VGG needs widths of 1 or more"):
        CifarVgg(widths=widths)


def test_a_hidden_layer_stands_before_the_last_and_needs_a_width() -> None:
    model = CifarVgg(widths=((3,),), hidden=7).eval()
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [7, 10]
    with pytest.raises(ValueError, match="the hidden layer of a VGG needs 1 or more outputs"):
        CifarVgg(hidden=0)
