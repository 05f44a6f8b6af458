"""VGG for 32x32 images: plain stacks of 3x3 convolutions, no shortcut anywhere."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from typing_extensions import override

from amc_env.models.initial import he_init_

VGG16_WIDTHS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)


class CifarVgg(nn.Module):
    """VGG whose three linear layers have become one, as usual for CIFAR.

    Every 3x3 convolution (with bias) is followed by batch norm and ReLU, every stage by a 2x2 max
    pool, so that the default five stages bring 32x32 pixels down to one. With 10 classes the
    default is the VGG-16 of the pruning literature: 13 convolutions and one linear layer,
    14,728,266 parameters. Simonyan and Zisserman, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", 2015.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        widths: Channels of every convolution, one sequence for each stage. With other than five
            stages the images must be ``2 ** len(widths)`` pixels wide.
        hidden: Outputs of a linear layer before the last, with batch norm and ReLU behind it; there
            is none if None. With 512, the network has the 313.46 million multiply-accumulates and
            14.99 million parameters that much of the pruning literature starts from.

    Raises:
        ValueError: A stage is empty, or a width is below 1.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[Sequence[int]] = VGG16_WIDTHS,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if not widths or not all(stage and min(stage) >= 1 for stage in widths):
            raise ValueError(f"every stage of a VGG needs widths of 1 or more, but got {widths}")
        if hidden is not None and hidden < 1:
            raise ValueError(f"the hidden layer of a VGG needs 1 or more outputs, but got {hidden}")
        layers: list[nn.Module] = []
        source = in_channels
        for stage in widths:
            for before, width in pairwise((source, *stage)):
                layers += [
                    nn.Conv2d(before, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
            layers.append(nn.MaxPool2d(2))
            source = stage[-1]
        self.features = nn.Sequential(*layers)
        self.classifier = _classifier(source, hidden, num_classes)
        he_init_(self)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _classifier(source: int, hidden: int | None, num_classes: int) -> nn.Module:
    """The last linear layer, and another one before it where it has a width."""
    if hidden is None:
        return nn.Linear(source, num_classes)
    return nn.Sequential(
        nn.Linear(source, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, num_classes),
    )
