"""A network for scikit-learn's 8x8 digits: trains in seconds, yet has something to prune."""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from amc_env.models.initial import he_init_


class DigitsCnn(nn.Module):
    """Four 3x3 convolutions with batch norm and ReLU, a mean over all pixels, a linear layer.

    A 2x2 max pool behind the second convolution brings 8x8 pixels down to 4x4.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        widths: Channels of the four convolutions.

    Raises:
        ValueError: There are not four widths of 1 or more.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 32, 64),
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths must be four numbers >= 1, but got {widths}")
        self.features = nn.Sequential(
            *_conv_norm_relu(in_channels, widths[0]),
            *_conv_norm_relu(widths[0], widths[1]),
            nn.MaxPool2d(2),
            *_conv_norm_relu(widths[1], widths[2]),
            *_conv_norm_relu(widths[2], widths[3]),
        )
        self.classifier = nn.Linear(widths[3], num_classes)
        he_init_(self)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


def _conv_norm_relu(in_width: int, width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The three modules of one layer."""
    return (
        nn.Conv2d(in_width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
