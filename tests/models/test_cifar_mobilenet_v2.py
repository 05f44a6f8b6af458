import pytest
import torch
from torch import nn

from amc_env.models.cifar_mobilenet_v2 import CifarMobileNetV2, InvertedResidual, Stage


def test_its_last_feature_map_has_4x4_pixels() -> None:
    model = CifarMobileNetV2().eval()
    with torch.no_grad():
        x = model.layers(model.bn1(model.conv1(torch.zeros(1, 3, 32, 32))))
    assert x.shape == (1, 320, 4, 4)


def test_without_projections_and_idle_widening_it_has_the_parameters_of_the_paper() -> None:
    # torchvision's mobilenet_v2(num_classes=10) has 2,236,682 parameters
    def size(module: nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    model = CifarMobileNetV2()
    blocks = [block for block in model.layers if isinstance(block, InvertedResidual)]
    projections = sum(size(block.shortcut) for block in blocks)
    idle = size(blocks[0].conv1) + size(blocks[0].bn1)
    assert size(model) - projections - idle == 2_236_682


def test_a_block_of_stride_2_has_no_shortcut() -> None:
    block = InvertedResidual(4, 4, expansion=1, stride=2).eval()
    nn.init.zeros_(block.conv3.weight)
    assert not block(torch.ones(1, 4, 8, 8)).any()


def test_a_block_that_keeps_its_shape_adds_its_input() -> None:
    block = InvertedResidual(4, 4, expansion=2, stride=1).eval()
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_a_stage_of_no_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="every number of a stage must be 1 or more"):
        Stage(expansion=6, width=24, blocks=0, stride=1)


@pytest.mark.parametrize("widths", [(0, 8), (8, 0)])
def test_widths_that_cannot_be_are_refused(widths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"stem_width {widths[0]}, head_width {widths[1]}"):
        CifarMobileNetV2(stem_width=widths[0], head_width=widths[1])


def test_no_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="but got 0 stages"):
        CifarMobileNetV2(stages=())
