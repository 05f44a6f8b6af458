"""MobileNetV2 for 32x32 images: inverted residuals around depthwise convolutions."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import relu6
from typing_extensions import override

from amc_env.models.initial import he_init_


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of inverted residuals of one width; the stride belongs to the first of them."""

    expansion: int
    width: int
    blocks: int
    stride: int

    def __post_init__(self) -> None:
        if min(self.expansion, self.width, self.blocks, self.stride) < 1:
            raise ValueError(f"every number of a stage must be 1 or more, but got {self}")


STAGES = (
    Stage(expansion=1, width=16, blocks=1, stride=1),
    Stage(expansion=6, width=24, blocks=2, stride=1),
    Stage(expansion=6, width=32, blocks=3, stride=2),
    Stage(expansion=6, width=64, blocks=4, stride=2),
    Stage(expansion=6, width=96, blocks=3, stride=1),
    Stage(expansion=6, width=160, blocks=3, stride=2),
    Stage(expansion=6, width=320, blocks=1, stride=1),
)


class InvertedResidual(nn.Module):
    """1x1 convolution that widens, 3x3 depthwise, 1x1 that narrows without activation.

    The shortcut exists where the stride is 1. It is the identity, or a 1x1 convolution with batch
    norm where the width changes.
    """

    def __init__(self, in_width: int, width: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * in_width
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.has_shortcut = stride == 1
        self.shortcut = nn.Sequential()
        if self.has_shortcut and in_width != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, width, 1, bias=False),
                nn.BatchNorm2d(width),
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        inner = relu6(self.bn1(self.conv1(x)))
        inner = relu6(self.bn2(self.conv2(inner)))
        out: Tensor = self.bn3(self.conv3(inner))
        return out + self.shortcut(x) if self.has_shortcut else out


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 of Sandler et al., 2018, fitted to 32x32 images as is common for CIFAR.

    Against the ImageNet network:

    - the first convolution and the second stage have stride 1 instead of 2, so that the last
      feature map has 4x4 pixels (strides 1, 1, 1, 2, 2, 1, 2, 1 instead of 2, 1, 2, 2, 2, 1, 2, 1);
    - a block of stride 1 that changes width has a projection for a shortcut instead of none;
    - the first block keeps its widening convolution, though it widens by a factor of 1.

    With 10 classes this form has 2,296,922 parameters (without the last two points 2,236,682).

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        stem_width: Channels of the first convolution.
        stages: The inverted residuals, in order.
        head_width: Channels of the last convolution.

    Raises:
        ValueError: There is no stage, or a width is below 1.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        stem_width: int = 32,
        stages: tuple[Stage, ...] = STAGES,
        head_width: int = 1280,
    ) -> None:
        super().__init__()
        if not stages or min(stem_width, head_width) < 1:
            raise ValueError(
                "a MobileNetV2 needs a stage, and a stem and a head of width 1 or more, "
                f"but got {len(stages)} stages, stem_width {stem_width}, head_width {head_width}"
            )
        self.conv1 = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.layers = _make_blocks(stem_width, stages)
        self.conv2 = nn.Conv2d(stages[-1].width, head_width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(head_width)
        self.linear = nn.Linear(head_width, num_classes)
        he_init_(self)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = relu6(self.bn1(self.conv1(images)))
        x = relu6(self.bn2(self.conv2(self.layers(x))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _make_blocks(in_width: int, stages: tuple[Stage, ...]) -> nn.Sequential:
    """The inverted residuals of all stages in one row."""
    blocks: list[nn.Module] = []
    for stage in stages:
        for position in range(stage.blocks):
            stride = stage.stride if position == 0 else 1
            blocks.append(
                InvertedResidual(in_width, stage.width, expansion=stage.expansion, stride=stride)
            )
            in_width = stage.width
    return nn.Sequential(*blocks)
