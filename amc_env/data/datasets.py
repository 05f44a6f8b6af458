"""Data sets of labelled images by name, normalised; all but ``folder`` are held in memory.

torchvision and scikit-learn take seconds to import. They are therefore imported inside the
functions that read them, so that a run on other data does not wait for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc_env.data.folders import Preparation, folder_streams
from amc_env.data.images import Images
from amc_env.data.sources import Source
from amc_env.data.splits import Split, stratified_order
from amc_env.data.streams import Reading
from amc_env.data.yolo import read_yolo
from amc_env.names import Kind

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, MNIST, ImageFolder

CIFAR_MEAN, CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of all pixels of the training images.
MNIST_MEAN, MNIST_DEVIATION = (0.1307,), (0.3081,)
FASHION_MNIST_MEAN, FASHION_MNIST_DEVIATION = (0.2860,), (0.3530,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test data.

    Attributes:
        train: All that is learnt or chosen comes from these samples.
        test: Only the final report reads these samples.
        name: What tables and files call it; by default the name that it was loaded by.
        test_originals: A mask of the test samples that were never re-encoded, on which accuracies
            are reported as well; None if all are alike.
    """

    train: Source
    test: Source
    name: str = ""
    test_originals: Tensor | None = None

    def __post_init__(self) -> None:
        mask = self.test_originals
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(self.test),)):
            raise ValueError(
                f"test_originals is {mask.dtype} {tuple(mask.shape)}; give a bool for each of "
                f"{len(self.test)} test samples"
            )

    def to(self, device: str) -> "Dataset":
        """The same data on a device."""
        mask = None if self.test_originals is None else self.test_originals.to(device)
        train, test = self.train.to(device), self.test.to(device)
        return replace(self, train=train, test=test, test_originals=mask)

    @property
    def classes(self) -> int:
        """The number of classes, which is the greatest label plus 1; 1 if labels are no classes."""
        return int(max(self.train.strata.max(), self.test.strata.max())) + 1


def digits(*, test_share: float = 0.5) -> Dataset:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, split into training and test by class."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    whole = Split(
        inputs=torch.from_numpy(images).float().view(-1, 1, 8, 8) / 8 - 1,
        labels=torch.from_numpy(labels).long(),
    )
    order = stratified_order(whole.strata, seed=0)
    count = round(test_share * len(order))
    return Dataset(train=whole.take(order[count:]), test=whole.take(order[:count]))


def cifar10(
    *,
    path: str = "data",
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """CIFAR-10, downloaded by torchvision into the folder ``path`` if it is not there."""
    from torchvision.datasets import CIFAR10

    return _downloaded(CIFAR10, path, (mean, deviation))


def cifar100(
    *,
    path: str = "data",
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """CIFAR-100, downloaded by torchvision into the folder ``path`` if it is not there."""
    from torchvision.datasets import CIFAR100

    return _downloaded(CIFAR100, path, (mean, deviation))


def mnist(
    *,
    path: str = "data",
    mean: tuple[float, ...] = MNIST_MEAN,
    deviation: tuple[float, ...] = MNIST_DEVIATION,
) -> Dataset:
    """MNIST, downloaded by torchvision into the folder ``path`` if it is not there."""
    from torchvision.datasets import MNIST

    return _downloaded(MNIST, path, (mean, deviation))


def fashion_mnist(
    *,
    path: str = "data",
    mean: tuple[float, ...] = FASHION_MNIST_MEAN,
    deviation: tuple[float, ...] = FASHION_MNIST_DEVIATION,
) -> Dataset:
    """Fashion-MNIST, downloaded by torchvision into the folder ``path`` if it is not there."""
    from torchvision.datasets import FashionMNIST

    return _downloaded(FashionMNIST, path, (mean, deviation))


def arrays(
    *,
    path: str,
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """The arrays ``train_x``, ``train_y``, ``test_x`` and ``test_y`` of an ``.npz`` file.

    Images are bytes, (samples, height, width, channels); labels are whole numbers, one an image.
    Where some test images are re-encoded copies, ``test_lossless`` says which are not, a bool for
    each; accuracies on those are then reported beside the others.

    Raises:
        ValueError: There is no such file, an array is missing, or an array has another shape or
            type.
    """
    if not (Path(path).is_file() and is_zipfile(path)):
        raise ValueError(f"there is no .npz file {path}; give one as data.options.path")
    with np.load(path) as file:
        missing = {"train_x", "train_y", "test_x", "test_y"} - set(file.files)
        if missing:
            raise ValueError(f"{path} has no array {', '.join(sorted(missing))}")
        parts = {name: file[name] for name in ("train_x", "train_y", "test_x", "test_y")}
        marked = file["test_lossless"] if "test_lossless" in file.files else None
    return Dataset(
        train=_images(parts["train_x"], parts["train_y"], (mean, deviation)),
        test=_images(parts["test_x"], parts["test_y"], (mean, deviation)),
        # With every image original there is nothing to tell apart.
        test_originals=None if marked is None or marked.all() else torch.from_numpy(marked),
    )


def image_folder(
    *,
    path: str,
    size: int = 224,
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
) -> Dataset:
    """The images of the folders ``train`` and ``test`` in ``path``, each with a folder per class.

    Raises:
        ValueError: One of the folders is missing, or the two have different classes.
    """
    from torchvision.transforms.v2.functional import pil_to_tensor, resize

    train, test = (_folder(Path(path) / part) for part in ("train", "test"))
    if train.classes != test.classes:
        differ = ", ".join(sorted({*train.classes} ^ {*test.classes}))
        raise ValueError(
            f"train and test in {path} have different classes; {differ} is in one of them only"
        )
    splits = []
    for found in (train, test):
        images = [resize(pil_to_tensor(image), [size, size]) for image, _ in found]
        pixels = torch.stack(images).permute(0, 2, 3, 1).numpy()
        splits.append(_images(pixels, np.array(found.targets), (mean, deviation)))
    return Dataset(train=splits[0], test=splits[1])


def folder(  # noqa: PLR0913 (options of a data set, all but one with defaults)
    *,
    path: str,
    train: str = "train",
    test: str = "val",
    weights: str | None = None,
    size: int = 224,
    resize: int = 256,
    mean: tuple[float, ...] = CIFAR_MEAN,
    deviation: tuple[float, ...] = CIFAR_DEVIATION,
    smallest_crop: float | None = 0.08,
    workers: int | None = None,
    hold_mib: int = Reading.hold_mib,
) -> Dataset:
    """The images of two folders in ``path``, each with a folder per class, read when needed.

    Args:
        path: The folder that holds both.
        train: The folder of the training images.
        test: The folder of the test images, which only the final report reads.
        weights: As ``Preparation`` has it, and so on to ``smallest_crop``.
        size: Height and width of what is read of an image.
        resize: The length of the shorter side before that.
        mean: Of each colour.
        deviation: Of each colour.
        smallest_crop: The least share of an image's area that a training reads.
        workers: As ``Reading`` has it, as the next.
        hold_mib: The most that a split held in memory takes.

    Raises:
        ValueError: A folder is missing, the two have different classes, or a number is wrong.
    """
    preparation = Preparation(
        weights=weights,
        size=size,
        resize=resize,
        mean=mean,
        deviation=deviation,
        smallest_crop=smallest_crop,
    )
    reading = Reading(workers=workers, hold_mib=hold_mib)
    streams = folder_streams(Path(path), (train, test), preparation, reading)
    return Dataset(train=streams[0], test=streams[1])


def synthetic(
    *,
    classes: int = 20,
    size: int = 32,
    train: int = 200,
    test: int = 100,
    channels: int = 3,
    seed: int = 0,
) -> Dataset:
    """Noise around one random pattern for each class: to see that a path runs, not how well.

    Args:
        classes: Number of classes.
        size: Height and width of an image.
        train: Number of training images.
        test: Number of test images.
        channels: Channels of an image.
        seed: Seed of patterns and noise.

    Raises:
        ValueError: There are fewer images than classes in a part, or a number is below 1.
    """
    if min(classes, size, channels) < 1 or min(train, test) < classes:
        raise ValueError(
            f"{train} training and {test} test images of {classes} classes, {channels} channels "
            f"and {size} pixels cannot be made; give numbers of 1 or more, and an image a class"
        )
    generator = torch.Generator().manual_seed(seed)
    # Patterns are coarse, so that a network can tell them apart after its poolings.
    coarse = torch.randn(classes, channels, 4, 4, generator=generator)
    patterns = torch.nn.functional.interpolate(coarse, size=(size, size), mode="nearest")

    def part(count: int) -> Split:
        labels = torch.arange(count) % classes
        noise = torch.randn(count, channels, size, size, generator=generator)
        return Split(inputs=patterns[labels] + 0.5 * noise, labels=labels)

    return Dataset(train=part(train), test=part(test))


def yolo(*, path: str, size: int = 640) -> Dataset:
    """The images and boxes that a ``data.yaml`` of Ultralytics names, read by Ultralytics itself.

    Images are scaled and padded to squares as in Ultralytics' validation, with values from 0 to 1.
    Training data is ``train``; test data is ``test``, or ``val`` where there is none. Ultralytics
    leaves a file ``labels.cache`` beside the labels.

    Args:
        path: The file ``data.yaml``.
        size: Height and width of the images.

    Raises:
        ValueError: Ultralytics is not installed, the file or its folders are not there, or ``size``
            is no multiple of 32.
    """
    train, test = read_yolo(path, size=size)
    return Dataset(train=train, test=test)


DATASETS: Mapping[str, Callable[..., Dataset]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "arrays": arrays,
    "image_folder": image_folder,
    "folder": folder,
    "synthetic": synthetic,
    "yolo": yolo,
}


DATASET: Kind[Dataset] = Kind(
    title="data set",
    entry_points="amc_env.datasets",
    makers=DATASETS,
    is_made=lambda thing: isinstance(thing, Dataset),
)


def load_dataset(given: str | Dataset, options: Mapping[str, Any] | None = None) -> Dataset:
    """The data set that a name or a path stands for, with its options; an object is returned.

    Raises:
        ValueError: The name or an option does not exist, or the files are not there.
    """
    return DATASET.make(given, options)


def _downloaded(
    source: "type[CIFAR10] | type[MNIST]",
    path: str,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
) -> Dataset:
    try:
        parts = [source(path, train=is_train, download=True) for is_train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{source.__name__} is not in {path} and could not be downloaded ({error}); "
            "give its folder as data.options.path, or data=arrays"
        ) from error
    train, test = (
        _images(_pixels(part.data), torch.as_tensor(part.targets).numpy(), scale) for part in parts
    )
    return Dataset(train=train, test=test)


def _pixels(images: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    """Bytes, (samples, height, width, channels); grey images have a channel too."""
    given = images.numpy() if isinstance(images, Tensor) else images
    return given if given.ndim == 4 else given[..., None]


def _folder(path: Path) -> "ImageFolder":
    from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise ValueError(
            f"there is no folder {path}; give one with train and test as data.options.path"
        )
    return ImageFolder(str(path))


def _images(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    scale: tuple[tuple[float, ...], tuple[float, ...]],
) -> Images:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; "
            "give bytes (samples, height, width, channels)"
        )
    return Images(
        pixels=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels).long().flatten(),
        mean=tuple(scale[0]),
        deviation=tuple(scale[1]),
    )
