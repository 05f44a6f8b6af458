"""The memory of a search on a folder does not grow with its images, as the benchmark shows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.images import write_folder
from benchmarks.memory import CALIBRATION, EVALUATION, PLAYED, page, read

ROOT = Path(__file__).resolve().parent.parent
# Three batches for few: with a single one, nothing is left of the batch before.
FEW, MANY = 192, 1152
# The allocator gives freed memory back at once: what it keeps differs from run to run by 40 MiB.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# What so many images of 64 pixels take; their outputs, 4 numbers each, take next to nothing. Less
# than a quarter of it may be seen where images are read when they are needed, and most of it must
# be seen where they are held.
HELD_MIB = (MANY - FEW) * 3 * 64**2 * 4 / 2**20


@pytest.mark.slow
def test_peaks_do_not_grow_with_images_that_are_read_when_needed(tmp_path: Path) -> None:
    shares = shares_seen(tmp_path)
    assert max(shares.values()) < 0.25, shares


@pytest.mark.slow
def test_peaks_grow_with_images_that_are_held(tmp_path: Path) -> None:
    # Otherwise the test above would pass whatever is held.
    shares = shares_seen(tmp_path, "--held")
    assert min(shares.values()) > 0.75, shares


def shares_seen(folder: Path, *options: str) -> dict[str, float]:
    """How much of what the images take is seen in the peak of every part."""
    write_folder(folder, {"train": 256 + MANY, "val": 4}, classes=4, size=(80, 80))
    for part in ("search", EVALUATION):
        for images in (FEW, MANY):
            subprocess.run(
                [sys.executable, "-m", "benchmarks.memory", "--part", part, "--folder", folder,
                 "--images", str(images), "--network", "mobilenet_v2", "--classes", "4",
                 "--size", "64", *options],
                cwd=ROOT, check=True, env=os.environ | AT_ONCE,
            )  # fmt: skip
    peaks = {(row["part"], row["images"]): row["peak_mib"] for row in read(folder / "parts.json")}
    parts = (CALIBRATION, EVALUATION, PLAYED)
    return {part: (peaks[part, MANY] - peaks[part, FEW]) / HELD_MIB for part in parts}


def test_the_page_says_what_is_not_measured_and_what_has_grown() -> None:
    rows = [
        {"part": EVALUATION, "images": images, "peak_mib": 1024.0 * peak, "after_mib": 512.0}
        for images, peak in ((256, 2.0), (2048, 2.1))
    ]
    text = page(rows)
    assert "| evaluation | 2,048 | 512 | 2,150 | 512 |" in text
    assert "| graph | not measured | not measured | not measured | not measured |" in text
    assert "The greatest peak is 2.10 GiB; the line is 8 GiB." in text
    assert "Peak on 2,048 images against 256: evaluation 1.050." in text
