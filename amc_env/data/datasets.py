"""Labelled images by name: in memory, normalised, training and test apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from amc_env.data.splits import Split, stratified_order
from amc_env.names import make_by_name

CIFAR_MEAN, CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training data, of which everything is chosen, and test data, which only reports read."""

    train: Split
    test: Split

    def to(self, device: str) -> "Dataset":
        """The same on a device."""
        return Dataset(train=self.train.to(device), test=self.test.to(device))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1


def digits(*, test_share: float = 0.5) -> Dataset:
    """scikit-learn's 1,797 digits of 8 x 8 pixels; every class gives its share to the test."""
    images, labels = load_digits(return_X_y=True)
    whole = Split(
        inputs=torch.from_numpy(images).float().view(-1, 1, 8, 8) / 8 - 1,
        labels=torch.from_numpy(labels).long(),
    )
    order = stratified_order(whole.labels, seed=0)
    count = round(test_share * len(order))
    return Dataset(train=whole.take(order[count:]), test=whole.take(order[:count]))


def cifar10(
    *,
    path: str = "data",
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """CIFAR-10, downloaded by torchvision into the folder ``path`` if it is not there."""
    return _cifar(CIFAR10, path, (mean, deviation))


def cifar100(
    *,
    path: str = "data",
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """CIFAR-100, downloaded by torchvision into the folder ``path`` if it is not there."""
    return _cifar(CIFAR100, path, (mean, deviation))


def arrays(
    *,
    path: str,
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """Arrays of an ``.npz`` file: ``train_x``, ``train_y``, ``test_x``, ``test_y``.

    Images are bytes, (samples, height, width, channels).

    Raises:
        ValueError: There is no such file, it lacks an array, or an array is not as it should be.
    """
    if not (Path(path).is_file() and is_zipfile(path)):
        raise ValueError(f"there is no .npz file {path}; give one as data.options.path")
    with np.load(path) as file:
        missing = {"train_x", "train_y", "test_x", "test_y"} - set(file.files)
        if missing:
            raise ValueError(f"{path} has no array {', '.join(sorted(missing))}")
        parts = {name: file[name] for name in ("train_x", "train_y", "test_x", "test_y")}
    return Dataset(
        train=_split(parts["train_x"], parts["train_y"], (mean, deviation)),
        test=_split(parts["test_x"], parts["test_y"], (mean, deviation)),
    )


def image_folder(
    *,
    path: str,
    size: int = 224,
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """Folders ``train`` and ``test`` in ``path``, with a folder of images for each class.

    Raises:
        ValueError: One of the folders is missing, or they have other classes.
    """
    train, test = (_folder(Path(path) / part) for part in ("train", "test"))
    if train.classes != test.classes:
        differ = ", ".join(sorted({*train.classes} ^ {*test.classes}))
        raise ValueError(
            f"train and test in {path} have not the same classes; {differ} is in one of them only"
        )
    splits = []
    for found in (train, test):
        images = [resize(pil_to_tensor(image), [size, size]) for image, _ in found]
        pixels = torch.stack(images).permute(0, 2, 3, 1).numpy()
        splits.append(_split(pixels, np.array(found.targets), (mean, deviation)))
    return Dataset(train=splits[0], test=splits[1])


DATASETS: Mapping[str, Callable[..., Dataset]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "arrays": arrays,
    "image_folder": image_folder,
}


def load_dataset(name: str, options: Mapping[str, Any] | None = None) -> Dataset:
    """The data of a name.

    Raises:
        ValueError: There is no such name or option, or the files are not there.
    """
    return make_by_name("data", name, DATASETS, options)


def _cifar(
    source: type[CIFAR10], path: str, scale: tuple[tuple[float, ...], tuple[float, ...]]
) -> Dataset:
    try:
        parts = [source(path, train=is_train, download=True) for is_train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{source.__name__} is not in {path} and could not be downloaded ({error}); "
            "give its folder as data.options.path, or data=arrays"
        ) from error
    train, test = (_split(part.data, np.array(part.targets), scale) for part in parts)
    return Dataset(train=train, test=test)


def _folder(path: Path) -> ImageFolder:
    if not path.is_dir():
        raise ValueError(
            f"there is no folder {path}; give one with train and test as data.options.path"
        )
    return ImageFolder(str(path))


def _split(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    scale: tuple[tuple[float, ...], tuple[float, ...]],
) -> Split:
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != labels.size:
        raise ValueError(
            f"images are {images.dtype} {images.shape} with {labels.size} labels; "
            "give bytes (samples, height, width, channels) and a label for each"
        )
    if not len(scale[0]) == len(scale[1]) == images.shape[3]:
        raise ValueError(
            f"images have {images.shape[3]} channels, but mean is {scale[0]} and deviation "
            f"{scale[1]}; give a number for each channel"
        )
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in scale)
    pixels: Tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return Split(
        inputs=((pixels - mean) / deviation).contiguous(),
        labels=torch.from_numpy(labels).long().flatten(),
    )
