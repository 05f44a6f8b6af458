"""Folders of images, which are decoded by torchvision's transforms whenever they are needed.

torchvision takes seconds to import, so it is imported inside the functions that need it.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from typing_extensions import override

from amc_env.data.streams import Reading, Stream

# Makes a tensor of an image as torchvision loads it.
Transform = Callable[[Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How an image becomes the tensor that a network reads.

    Attributes:
        weights: torchvision's name of weights, such as ``ResNet50_Weights.IMAGENET1K_V1``, whose
            own transforms are taken; the next four then count for nothing.
        size: Height and width of the square in the middle that is read.
        resize: The length of the shorter side before that.
        mean: Of each colour, on a scale from 0 to 1.
        deviation: Of each colour, on the same scale.
        smallest_crop: In training, a part of a random size and shape is read in place of the middle
            one: from this share of the image's area to all of it (Szegedy et al., "Going Deeper
            with Convolutions", 2015, section 6). None reads the middle in training too.
    """

    weights: str | None = None
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    smallest_crop: float | None = 0.08

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(
                f"size is {self.size} and resize is {self.resize}; give a size of 1 or more, and a "
                "resize that is not smaller"
            )
        if self.smallest_crop is not None and not 0 < self.smallest_crop <= 1:
            raise ValueError(
                f"smallest_crop is {self.smallest_crop}; give a share above 0, at most 1, or none"
            )

    def transforms(self) -> tuple[Transform, Transform]:
        """What prepares an image to be evaluated, and to train on.

        Raises:
            ValueError: torchvision has no such weights, or none with such transforms.
        """
        from torchvision.transforms import v2

        if self.weights is not None:
            whole: Any = _preset(self.weights)
            size, mean, deviation = whole.crop_size[0], whole.mean, whole.std
            kind = whole.interpolation
        else:
            size, mean, deviation = self.size, self.mean, self.deviation
            kind = v2.InterpolationMode.BILINEAR
            middle = [v2.Resize(self.resize), v2.CenterCrop(size)]
            whole = v2.Compose([*middle, *_scaled(mean, deviation)])
        if self.smallest_crop is None:
            return whole, whole
        crop = v2.RandomResizedCrop(size, scale=(self.smallest_crop, 1.0), interpolation=kind)
        return whole, v2.Compose([crop, *_scaled(mean, deviation)])


class FolderImages(TorchDataset[tuple[Tensor, int]]):
    """The images of a folder that has a folder for every class, in torchvision's order.

    Args:
        path: The folder.
        transform: Makes the tensor of an image.

    Attributes:
        classes: The names of the classes.
        targets: The class of every image.

    Raises:
        ValueError: There is no such folder, or no image in it.
    """

    def __init__(self, path: Path, transform: Transform) -> None:
        from torchvision.datasets import ImageFolder

        if not path.is_dir():
            raise ValueError(
                f"there is no folder {path}; give the folder above it as data.options.path"
            )
        try:
            found = ImageFolder(str(path))
        except FileNotFoundError as error:
            raise ValueError(
                f"{path} needs a folder for every class, with at least one image in each: {error}"
            ) from error
        self.classes: list[str] = found.classes
        self.targets: list[int] = found.targets
        self._root, self._transform, self._load = path, transform, found.loader
        self._files = [Path(name) for name, _ in found.samples]

    def __len__(self) -> int:
        return len(self._files)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self._files[index]
        try:
            image = self._load(str(path))
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read as an image ({error}); put it back, or take it out"
            ) from error
        return self._transform(image), self.targets[index]

    def read_by(self, transform: Transform) -> "FolderImages":
        """The same images, made tensors by another transform."""
        other = copy.copy(self)
        vars(other)["_transform"] = transform
        return other

    def digest(self, index: int) -> bytes:
        """A checksum of an image's file."""
        return hashlib.blake2b(self._files[index].read_bytes(), digest_size=16).digest()

    def identity(self) -> bytes:
        """A checksum of the names and sizes of all files, and of the transform."""
        seen = hashlib.blake2b(repr(self._transform).encode(), digest_size=16)
        for path in self._files:
            seen.update(f"{path.relative_to(self._root)} {path.stat().st_size}\n".encode())
        return seen.digest()


def folder_streams(
    path: Path, parts: tuple[str, str], preparation: Preparation, reading: Reading
) -> tuple[Stream, Stream]:
    """The training and the test images of two folders in ``path``.

    Raises:
        ValueError: One of the folders is missing or empty, or they have different classes.
    """
    whole, cropped = preparation.transforms()
    train, test = (FolderImages(path / part, whole) for part in parts)
    if train.classes != test.classes:
        differ = ", ".join(sorted({*train.classes} ^ {*test.classes}))
        raise ValueError(
            f"{parts[0]} and {parts[1]} in {path} have different classes; {differ} is in one of "
            "them only"
        )
    return (
        Stream(train, training=train.read_by(cropped), reading=reading),
        Stream(test, reading=reading),
    )


def _scaled(mean: tuple[float, ...], deviation: tuple[float, ...]) -> list[Any]:
    from torchvision.transforms import v2

    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return [*to_tensor, v2.Normalize(list(mean), list(deviation)), v2.ToPureTensor()]


def _preset(name: str) -> Any:
    """The transforms of torchvision's weights."""
    import torchvision

    try:
        preset = torchvision.models.get_weight(name).transforms()
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"torchvision has no weights {name!r}; give a name such as "
            "ResNet50_Weights.IMAGENET1K_V1"
        ) from error
    if not hasattr(preset, "crop_size"):
        raise ValueError(
            f"the weights {name!r} are not of a classifier of images; give mean, deviation and "
            "size instead"
        )
    return preset
