from collections.abc import Sequence

import pytest
import torch

from amc_env.models.cifar_bottleneck import CifarResNet50


def test_its_stages_see_32_16_8_and_4_pixels() -> None:
    model = CifarResNet50(widths=(2, 3, 4, 5)).eval()
    x = model.bn1(model.conv1(torch.zeros(1, 3, 32, 32)))
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        shapes.append(tuple(x.shape[1:3]))
    assert shapes == [(8, 32), (12, 16), (16, 8), (20, 4)]


@pytest.mark.parametrize("widths", [(64, 128, 256), (64, 128, 256, 0)])
def test_widths_that_cannot_be_are_refused(widths: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="four numbers >= 1"):
        CifarResNet50(widths=widths)
