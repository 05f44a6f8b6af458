"""Folders of synthetic JPEGs in torchvision's layout: a coarse noisy pattern for each class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

_PATTERN = 4


def write_folder(
    root: Path,
    counts: Mapping[str, int],
    *,
    classes: int = 2,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
) -> None:
    """Write images of ``size`` (width, height) to a folder per part and class.

    Args:
        root: The folder of the parts.
        counts: The number of images in each part.
        classes: The number of classes; image by image they take turns.
        size: Width and height of every image.
        seed: Seed of patterns and noise.
    """
    generator = np.random.default_rng(seed)
    patterns = generator.uniform(64, 192, (classes, _PATTERN, _PATTERN, 3))
    for part, count in counts.items():
        for number in range(count):
            folder = root / part / f"class{number % classes:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / f"{number:06d}.jpg", patterns[number % classes], size, generator)


def _write(
    path: Path, pattern: np.ndarray, size: tuple[int, int], generator: np.random.Generator
) -> None:
    noisy = pattern + generator.normal(0, 32, pattern.shape)
    pixels = noisy.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
