"""Images of coloured shapes, with the class of every pixel or a box around every shape."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amc_env import Split
from amc_env.data.datasets import Dataset
from amc_env.files import write_text
from amc_env.tasks.detection import Boxes, labels_of_boxes

# Whether the points (x, y) of a square from -1 to 1 belong to a shape.
SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x.abs().maximum(y.abs()) <= 1.0,
    lambda x, y: x.square() + y.square() <= 1.0,
    lambda x, y: (y <= 1.0) & (x.abs() * 2.0 <= y + 1.0),
)
MOST = 3


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One image with what is on it.

    Attributes:
        image: (3, size, size).
        classes: (size, size): 0 for the background, 1 and more for shapes.
        boxes: Around the shapes, as far as other shapes leave something of them.
    """

    image: Tensor
    classes: Tensor
    boxes: Boxes


def segmentation(*, train: int = 600, test: int = 300, size: int = 32, seed: int = 0) -> Dataset:
    """Shapes with the class of every pixel."""
    return _dataset(train, test, size, seed, lambda ds: torch.stack([d.classes for d in ds]))


def detection(*, train: int = 600, test: int = 300, size: int = 64, seed: int = 0) -> Dataset:
    """Shapes with a box around each."""
    return _dataset(train, test, size, seed, lambda ds: labels_of_boxes([d.boxes for d in ds]))


def yolo(*, train: int, val: int, size: int = 64, seed: int = 0) -> Dataset:
    """Shapes with a box around each, by way of files in Ultralytics' layout."""
    from amc_env.data.datasets import yolo as read

    with tempfile.TemporaryDirectory() as folder:
        described = write_yolo(Path(folder), train=train, val=val, size=size, seed=seed)
        return read(path=str(described), size=size)


def write_yolo(folder: Path, *, train: int, val: int, size: int = 64, seed: int = 0) -> Path:
    """Write shapes as images and labels in Ultralytics' layout, and return their ``data.yaml``."""
    from torchvision.transforms.functional import to_pil_image

    generator = torch.Generator().manual_seed(seed)
    for part, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            drawing = draw(generator, size=size)
            # Noise is centred at 0, and three deviations to each side are kept.
            pixels = (drawing.image / 6 + 0.5).clamp(0, 1)
            to_pil_image(pixels).save(folder / "images" / part / f"{number}.png")
            write_text(folder / "labels" / part / f"{number}.txt", _rows(drawing.boxes))
    names = "".join(f"  {kind}: shape{kind}\n" for kind in range(len(SHAPES)))
    where = f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n"
    write_text(folder / "data.yaml", where + names)
    return folder / "data.yaml"


def draw(generator: torch.Generator, *, size: int) -> Drawing:
    """One to three shapes on a noisy background; later ones lie on top."""
    image = 0.3 * torch.randn(3, size, size, generator=generator)
    classes, owner = torch.zeros(2, size, size, dtype=torch.long)
    kinds = torch.randint(len(SHAPES), (_one_to(MOST, generator),), generator=generator).tolist()
    centres = (torch.arange(size) + 0.5) / size
    for number, kind in enumerate(kinds, start=1):
        radius = 0.14 + 0.14 * float(torch.rand((), generator=generator))
        middle = radius + (1 - 2 * radius) * torch.rand(2, generator=generator)
        x, y = ((centres - at) / radius for at in middle)
        inside = SHAPES[kind](x[None], y[:, None])
        colour = torch.randn(3, generator=generator)
        image[:, inside] = colour[:, None] + 0.3 * image[:, inside]
        classes[inside], owner[inside] = kind + 1, number
    seen = [number for number in range(1, len(kinds) + 1) if (owner == number).any()]
    boxes = Boxes(
        boxes=torch.stack([_around(owner == number) for number in seen]),
        classes=torch.tensor([kinds[number - 1] for number in seen]),
    )
    return Drawing(image=image, classes=classes, boxes=boxes)


def _dataset(
    train: int, test: int, size: int, seed: int, labels: Callable[[list[Drawing]], Tensor]
) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for count in (train, test):
        drawings = [draw(generator, size=size) for _ in range(count)]
        images = torch.stack([drawing.image for drawing in drawings])
        splits.append(Split(inputs=images, labels=labels(drawings)))
    return Dataset(train=splits[0], test=splits[1], name="shapes")


def _rows(boxes: Boxes) -> str:
    """Boxes as lines: class, middle across and down, width and height, as shares of the image."""
    lines = []
    for kind, (left, top, right, bottom) in zip(
        boxes.classes.tolist(), boxes.boxes.tolist(), strict=True
    ):
        numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        lines.append(f"{kind} {' '.join(f'{number:.6f}' for number in numbers)}\n")
    return "".join(lines)


def _one_to(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(1, most + 1, (), generator=generator))


def _around(mask: Tensor) -> Tensor:
    """The box around a mask, as shares of the image."""
    rows, columns = (mask.any(dim).nonzero().flatten() for dim in (1, 0))
    corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return torch.stack(corners) / len(mask)
