"""ResNets for 32x32 images, of depth 6n + 2: three stages of n two-convolution blocks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.functional import pad, relu
from typing_extensions import override

from amc_env.models.initial import he_init_

Shortcut = Literal["A", "B"]


class PaddedShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, with channels of zeros added on both sides.

    It has no parameters. With an odd number of channels to add, the one more goes behind.
    """

    def __init__(self, in_width: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (width - in_width) // 2
        self.behind = width - in_width - self.before

    @override
    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        return pad(kept, (0, 0, 0, 0, self.before, self.behind))


def _make_shortcut(in_width: int, width: int, *, stride: int, shortcut: Shortcut) -> nn.Module:
    """The path around a block: the identity where shapes agree, else option A or B."""
    if stride == 1 and in_width == width:
        return nn.Sequential()
    if shortcut == "A":
        return PaddedShortcut(in_width, width, stride=stride)
    return nn.Sequential(
        nn.Conv2d(in_width, width, 1, stride=stride, bias=False),
        nn.BatchNorm2d(width),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, in_width: int, width: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _make_shortcut(in_width, width, stride=stride, shortcut=shortcut)

    @override
    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The CIFAR-10 network of He et al., "Deep Residual Learning", 2015, section 4.2.

    A 3x3 convolution, three stages of ``(depth - 2) / 6`` basic blocks at 32x32, 16x16 and 8x8
    pixels, the mean over all pixels and one linear layer. The names of its parameters are those
    of the weights that are published for it (``layer1.0.conv1.weight``). ResNet-56 with option A
    has 0.85 million parameters and 126 million multiply-accumulates.

    Args:
        depth: Layers with weights on the longest path; 6n + 2, at least 8.
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        widths: Channels of the three stages, never fewer than in the stage before.
        shortcut: How a shortcut changes shape: "A" slices and pads with zeros (no parameters),
            "B" is a 1x1 convolution with batch norm.

    Raises:
        ValueError: The depth is not 6n + 2, the widths fall, or the shortcut is neither A nor B.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        shortcut: Shortcut = "A",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(
                f"a CIFAR ResNet has depth 6n + 2 with n >= 1 (8, 14, 20, ...), not {depth}"
            )
        if len(widths) != 3 or widths[0] < 1 or any(a > b for a, b in pairwise(widths)):
            raise ValueError(f"widths must be three numbers >= 1 that never fall, but got {widths}")
        if shortcut not in get_args(Shortcut):
            raise ValueError(f'shortcut must be "A" or "B", not {shortcut!r}')
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])

        def stage(in_width: int, width: int, *, stride: int) -> nn.Sequential:
            first = BasicBlock(in_width, width, stride=stride, shortcut=shortcut)
            others = [
                BasicBlock(width, width, stride=1, shortcut=shortcut) for _ in range(1, blocks)
            ]
            return nn.Sequential(first, *others)

        self.layer1 = stage(widths[0], widths[0], stride=1)
        self.layer2 = stage(widths[0], widths[1], stride=2)
        self.layer3 = stage(widths[1], widths[2], stride=2)
        self.linear = nn.Linear(widths[2], num_classes)
        he_init_(self)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
