"""Random changes of images for training."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augmented(images: Tensor, generator: torch.Generator, *, shift: int, flip: bool) -> Tensor:
    """A batch of images (samples, channels, height, width), each mirrored and shifted at random.

    Zeros come in from the border.
    """
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    if shift:
        images = _shifted(images, shift, generator)
    return images


def _shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    padded = F.pad(images, [most] * 4).permute(0, 2, 3, 1)
    # All shifts at once are one gather: image, row and column of each pixel are three indices.
    down, right = torch.randint(2 * most + 1, (2, count, 1), generator=generator)
    each = torch.arange(count)[:, None, None]
    rows = (down + torch.arange(height))[:, :, None]
    columns = (right + torch.arange(width))[:, None, :]
    device = images.device
    return padded[each.to(device), rows.to(device), columns.to(device)].permute(0, 3, 1, 2)
