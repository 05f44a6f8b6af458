"""LeNet-5, the smallest classic: two convolutions and three linear layers."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from typing_extensions import override

PADDING_OF_IMAGE_SIZE = {28: 2, 32: 0}


class LeNet5(nn.Module):
    """LeNet-5 of LeCun et al., "Gradient-Based Learning", 1998, with ReLU and max pools.

    The paper's tanh, trained subsampling and partial connections are replaced by today's ReLU,
    max pool and full connections. A 28x28 image is padded to the paper's 32x32 in the first
    convolution. With one input channel and 10 classes it has 61,706 parameters. There is no norm,
    and the first linear layer reads 5x5 values of every channel behind a flatten.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image.
        image_size: Height and width of an image, 28 or 32.

    Raises:
        ValueError: The image size is neither 28 nor 32.
    """

    def __init__(
        self, *, num_classes: int = 10, in_channels: int = 1, image_size: int = 28
    ) -> None:
        super().__init__()
        if image_size not in PADDING_OF_IMAGE_SIZE:
            raise ValueError(f"LeNet-5 reads images of size 28 or 32, not {image_size}")
        padding = PADDING_OF_IMAGE_SIZE[image_size]
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.linear1 = nn.Linear(16 * 5 * 5, 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = max_pool2d(relu(self.conv1(images)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2).flatten(1)
        x = relu(self.linear2(relu(self.linear1(x))))
        logits: Tensor = self.linear3(x)
        return logits
