"""A U-Net: skips by concatenation, and transposed convolutions on the way up."""

from itertools import pairwise

import torch
from torch import Tensor, nn


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three scales, one map a class out."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 24), classes: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            double_conv(a, b) for a, b in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(double_conv(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for number in reversed(range(len(self.up))):
            x = self.join[number](torch.cat([skips[number], self.up[number](x)], 1))
        return self.head(x)
