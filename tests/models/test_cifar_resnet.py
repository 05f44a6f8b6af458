from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from amc_env.models import build_model, load_checkpoint_, read_checkpoint
from amc_env.models.cifar_resnet import CifarResNet, PaddedShortcut

Weights = Mapping[str, Tensor]


def published_forward(weights: Weights, images: Tensor, *, blocks: int) -> Tensor:
    """The network as its published weights were trained, from the names in their file alone."""

    def conv_norm(x: Tensor, place: str, index: str, stride: int = 1) -> Tensor:
        x = functional.conv2d(x, weights[f"{place}conv{index}.weight"], stride=stride, padding=1)
        norm = f"{place}bn{index}."
        shape = (1, -1, 1, 1)
        x = (x - weights[f"{norm}running_mean"].view(shape)) / torch.sqrt(
            weights[f"{norm}running_var"].view(shape) + 1e-5
        )
        return x * weights[f"{norm}weight"].view(shape) + weights[f"{norm}bias"].view(shape)

    x = conv_norm(images, "", "1").relu()
    for stage in (1, 2, 3):
        for block in range(blocks):
            place = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            branch = conv_norm(conv_norm(x, place, "1", stride).relu(), place, "2")
            if stride == 2:
                zeros = torch.zeros_like(branch)[:, : branch.shape[1] // 4]
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (branch + x).relu()
    x = functional.avg_pool2d(x, x.shape[3]).flatten(1)
    return x @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_the_published_weights_give_the_published_function(shared: Path, depth: int) -> None:
    path = shared / "models" / f"cifar10_resnet{depth}.th"
    model = build_model(f"cifar_resnet{depth}").eval()
    load_checkpoint_(model, path)
    weights = {name.removeprefix("module."): value for name, value in read_checkpoint(path).items()}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = published_forward(weights, images, blocks=(depth - 2) // 6)
        assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-4)


def test_its_names_are_those_of_the_published_weights(shared: Path) -> None:
    given = read_checkpoint(shared / "models" / "cifar10_resnet56.th")
    own = [name for name in CifarResNet(56).state_dict() if "num_batches_tracked" not in name]
    assert [f"module.{name}" for name in own] == list(given)


def test_option_a_slices_pixels_and_pads_channels_on_both_sides() -> None:
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    out = PaddedShortcut(1, 4, stride=2)(x)
    assert out[0, :, 0, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert out[0, 1].tolist() == [[1.0, 3.0], [9.0, 11.0]]


def test_option_a_has_no_parameters() -> None:
    assert not list(PaddedShortcut(16, 32, stride=2).parameters())


def test_its_widths_can_be_chosen() -> None:
    model = CifarResNet(8, widths=(4, 7, 7)).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_other_than_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth 6n \\+ 2 .* not {depth}"):
        CifarResNet(depth)


@pytest.mark.parametrize("widths", [(16, 32), (0, 1, 2), (16, 8, 32)])
def test_widths_that_cannot_be_are_refused(widths: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="three numbers >= 1 that never fall"):
        CifarResNet(20, widths=widths)


def test_a_shortcut_of_another_letter_is_refused() -> None:
    wrong: Any = "C"
    with pytest.raises(ValueError, match='"A" or "B", not \'C\''):
        CifarResNet(20, shortcut=wrong)
