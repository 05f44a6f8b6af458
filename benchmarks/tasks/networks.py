"""A small U-Net, and a small detector without anchors in the manner of YOLO."""

import torch
from torch import Tensor, nn
from typing_extensions import override

CLASSES = 3


class UNet(nn.Module):
    """Two steps down and up again, with what was before each step beside it.

    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015.
    """

    def __init__(self, width: int = 12, classes: int = CLASSES + 1) -> None:
        super().__init__()
        self.first = _double(3, width)
        self.second = _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up_second = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.back_second = _double(4 * width, 2 * width)
        self.up_first = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.back_first = _double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.pool = nn.MaxPool2d(2)

    @override
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Scores of the classes of every pixel, under ``out`` as in torchvision's networks."""
        first = self.first(images)
        second = self.second(self.pool(first))
        bottom = self.bottom(self.pool(second))
        second = self.back_second(torch.cat([self.up_second(bottom), second], 1))
        first = self.back_first(torch.cat([self.up_first(second), first], 1))
        return {"out": self.head(first)}


class Detector(nn.Module):
    """A backbone of split blocks, two levels that exchange features, and a head on each.

    The blocks and the way up and down again are those of YOLOv8, much smaller: a part of a block's
    channels passes its convolutions, all parts are joined.
    """

    def __init__(self, width: int = 12, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(_unit(3, width, 3, 2), _unit(width, 2 * width, 3, 2))
        self.fine = SplitBlock(2 * width)
        self.down = _unit(2 * width, 4 * width, 3, 2)
        self.coarse = SplitBlock(4 * width)
        self.lateral = _unit(4 * width, 2 * width, 1, 1)
        self.merge_fine = _unit(4 * width, 2 * width, 3, 1)
        self.down_again = _unit(2 * width, 2 * width, 3, 2)
        self.merge_coarse = _unit(6 * width, 4 * width, 3, 1)
        self.heads = nn.ModuleList(_head(w * width, classes) for w in (2, 4))

    @override
    def forward(self, images: Tensor) -> list[Tensor]:
        """A map of each level: logits of the classes, then distances to the sides of a box."""
        fine = self.fine(self.stem(images))
        coarse = self.coarse(self.down(fine))
        above = nn.functional.interpolate(self.lateral(coarse), scale_factor=2.0)
        fine = self.merge_fine(torch.cat([above, fine], 1))
        coarse = self.merge_coarse(torch.cat([self.down_again(fine), coarse], 1))
        return [head(x) for head, x in zip(self.heads, (fine, coarse), strict=True)]


class SplitBlock(nn.Module):
    """Half of the channels pass two convolutions with a shortcut; both halves are joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = _unit(width, width, 1, 1)
        self.inner = nn.Sequential(_unit(half, half, 3, 1), _unit(half, half, 3, 1))
        self.leave = _unit(width + half, width, 1, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        one, other = self.enter(x).chunk(2, 1)
        out: Tensor = self.leave(torch.cat([one, other, other + self.inner(other)], 1))
        return out


def unet(width: int = 12) -> UNet:
    """The U-Net with fresh weights, always the same."""
    torch.manual_seed(0)
    return UNet(width)


def detector(width: int = 12) -> Detector:
    """The detector with fresh weights, always the same."""
    torch.manual_seed(0)
    return Detector(width)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_unit(inputs, outputs, 3, 1), _unit(outputs, outputs, 3, 1))


def _unit(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


def _head(width: int, classes: int) -> nn.Sequential:
    last = nn.Conv2d(width, classes + 4, 1)
    # Objects are rare, and each class begins with a probability of 0.01 (Lin et al., "Focal Loss
    # for Dense Object Detection", 2017, section 4.1).
    bias = torch.zeros(classes + 4)
    bias[:classes] = -4.6
    last.bias = nn.Parameter(bias)
    return nn.Sequential(_unit(width, width, 3, 1), last)
