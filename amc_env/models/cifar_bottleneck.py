"""ResNet-50 for 32x32 images: blocks that narrow, look around and widen again."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu
from typing_extensions import override

from amc_env.models.initial import he_init_

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, and a shortcut around them.

    The stride sits in the 3x3 convolution. ``width`` counts the channels inside; the block gives
    ``EXPANSION`` times as many.
    """

    def __init__(self, in_width: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_width = EXPANSION * width
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != out_width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_width),
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        inner = relu(self.bn2(self.conv2(inner)))
        return relu(self.bn3(self.conv3(inner)) + self.shortcut(x))


class CifarResNet50(nn.Module):
    """ResNet-50 of He et al., "Deep Residual Learning", 2015, fitted to 32x32 images.

    Against the ImageNet network, the 7x7 convolution of stride 2 is a 3x3 one of stride 1 and the
    max pool behind it is gone, so that the four stages see 32, 16, 8 and 4 pixels where 224-pixel
    images would give 56, 28, 14 and 7. With 10 classes it has 23,520,842 parameters.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        widths: Channels inside the blocks of each stage; a stage gives four times as many. The
            first is also the width of the first convolution.

    Raises:
        ValueError: There are not four widths of 1 or more.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths must be four numbers >= 1, but got {widths}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks=3, stride=1)
        self.layer2 = _stage(EXPANSION * widths[0], widths[1], blocks=4, stride=2)
        self.layer3 = _stage(EXPANSION * widths[1], widths[2], blocks=6, stride=2)
        self.layer4 = _stage(EXPANSION * widths[2], widths[3], blocks=3, stride=2)
        self.linear = nn.Linear(EXPANSION * widths[3], num_classes)
        he_init_(self)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(in_width: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` bottlenecks, of which the first changes width and resolution."""
    first = Bottleneck(in_width, width, stride=stride)
    rest = (Bottleneck(EXPANSION * width, width, stride=1) for _ in range(1, blocks))
    return nn.Sequential(first, *rest)
