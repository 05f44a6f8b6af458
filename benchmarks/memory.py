"""Peak memory of every part of a search on ResNet-50 at 224 pixels, from a folder of images.

The images are synthetic JPEGs, the weights are random. Each number of images runs in a process of
its own, on one thread, which reads the images itself (``workers=0``) and holds none of the splits
(``hold_mib=0``). Memory is the resident set of that process: before every part its peak is set back
(``/proc/self/clear_refs``), so that a row is the peak of the part itself, with all that is held
from the parts before.

    uv run python -m benchmarks.memory --out docs/results/memory.md

A part that is finished is in ``FOLDER/parts.json`` and is not measured again; ``--table`` writes
the page of what is there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from typing_extensions import override

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData
from amc_env.calibration import Calibration
from amc_env.criteria import Criterion, make_criterion
from amc_env.data import Source
from amc_env.data.datasets import load_dataset
from amc_env.evaluation import Evaluator
from amc_env.files import atomic
from amc_env.memory import Compute
from amc_env.structure import ChannelGroup
from benchmarks.images import write_folder
from benchmarks.resident import forget_peak_, peak_bytes, resident_bytes

IMAGES = (256, 2048)
VALIDATION = 256
EPISODES = 5
LIMIT_GIB = 8
SETUP = (
    f"Calibration on 256 and on 2,048 images; the episodes repair on 64 of them and are evaluated "
    f"on {VALIDATION} others, which every evaluation reads again. Evaluation is one run of the "
    "network on as many images. MiB:"
)
BEFORE, GRAPH, CALIBRATION = "before", "graph", "calibration"
FACTORING, PLAYED, EVALUATION = "factoring", f"{EPISODES} episodes", "evaluation"


class Marks:
    """The peak and the duration of parts that follow one another in this process."""

    def __init__(self, path: Path, images: int) -> None:
        self._path, self._images = path, images
        self._begin()

    def end(self, part: str) -> None:
        """Note a part that is over, and begin the next."""
        row = {
            "part": part,
            "images": self._images,
            "peak_mib": peak_bytes() / 2**20,
            "after_mib": resident_bytes() / 2**20,
            "seconds": time.perf_counter() - self._started,
        }
        rows = [r for r in read(self._path) if (r["part"], r["images"]) != (part, self._images)]
        with atomic(self._path) as temporary:
            temporary.write_text(json.dumps([*rows, row], indent=1))
        self._begin()

    def _begin(self) -> None:
        forget_peak_()
        self._started = time.perf_counter()


class Marking(Criterion):
    """Another criterion, which notes when it is first asked: the calibration is over then."""

    name = "l2"

    def __init__(self, marks: Marks) -> None:
        self._criterion, self._marks = make_criterion("l2"), marks
        self._is_asked = False

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        if not self._is_asked:
            self._is_asked = True
            self._marks.end(CALIBRATION)
        return self._criterion.scores(group, calibration)


def read(path: Path) -> list[dict[str, Any]]:
    """The parts that are finished."""
    return json.loads(path.read_text()) if path.exists() else []


def search(model: torch.nn.Module, train: Source, images: int, marks: Marks) -> None:
    """Analyse, calibrate, factor and play some episodes."""

    def note(what: str, compute: Compute) -> Any:
        # The first that an environment asks for, once it knows the structure.
        if what == "format of evaluations":
            marks.end(GRAPH)
        return compute()

    env = ChannelPruningEnv(
        model=model,
        data=PruningData(
            calibration=train.take(slice(VALIDATION, VALIDATION + images)),
            validation=train.take(slice(VALIDATION)),
        ),
        criterion=Marking(marks),
        budget=Budget(flops=0.5),
        settings=EnvSettings(precision="float32"),
        memory=note,
    )
    marks.end(FACTORING)
    with torch.no_grad():
        for number in range(EPISODES):
            share = 0.5 + 0.05 * number
            env.evaluate({g.name: max(1, int(share * g.channels)) for g in env.graph.groups})
    marks.end(PLAYED)


def evaluation(model: torch.nn.Module, train: Source, images: int, marks: Marks) -> None:
    """Run the network once on images that are read meanwhile."""
    split = train.take(slice(images))
    Evaluator(split, precision="float32").outputs(model)
    marks.end(EVALUATION)


def built(network: str, classes: int) -> torch.nn.Module:
    """A network of torchvision with random weights."""
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.get_model(
        network, weights=None, num_classes=classes
    )
    return model.eval()


def measure(
    what: str, folder: Path, images: int, model: torch.nn.Module, *, size: int, is_held: bool
) -> None:
    """Measure parts in this process, which is to be fresh."""
    torch.set_num_threads(1)
    hold_mib = 2**20 if is_held else 0
    options = {"path": f"{folder}", "size": size, "workers": 0, "hold_mib": hold_mib}
    train = load_dataset("folder", options).train.take(slice(VALIDATION + images)).resident()
    marks = Marks(folder / "parts.json", images)
    if what == EVALUATION:
        evaluation(model, train, images, marks)
    else:
        marks.end(BEFORE)
        search(model, train, images, marks)


def measure_all(folder: Path) -> None:
    """Measure what is not measured yet, each number of images in a fresh process."""
    if not folder.exists():
        with _whole(folder) as temporary:
            write_folder(temporary, {"train": max(IMAGES) + VALIDATION, "val": 8}, classes=4)
    for what, last in (("search", PLAYED), (EVALUATION, EVALUATION)):
        for images in IMAGES:
            done = {(row["part"], row["images"]) for row in read(folder / "parts.json")}
            if (last, images) not in done:
                part = ["--part", what, "--images", str(images), "--folder", str(folder)]
                subprocess.run([sys.executable, "-m", "benchmarks.memory", *part], check=True)


def page(rows: list[dict[str, Any]]) -> str:
    """The table, and what it says."""
    peaks = {(row["part"], row["images"]): row["peak_mib"] for row in rows}
    after = {(row["part"], row["images"]): row["after_mib"] for row in rows}
    head = " | ".join(f"peak, {images} | held after, {images}" for images in IMAGES)
    lines = [
        "# Memory of ResNet-50 at 224 pixels",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n    uv run")[0].replace("``", "`"),
        "",
        SETUP,
        "",
        f"| part | {head} |",
        f"| --- {'| ---: | ---: ' * len(IMAGES)}|",
    ]
    for part in (BEFORE, GRAPH, CALIBRATION, FACTORING, PLAYED, EVALUATION):
        cells = [
            f"{found[part, images]:,.0f}" if (part, images) in found else "not measured"
            for images in IMAGES
            for found in (peaks, after)
        ]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_verdict(peaks), "", _machine(), ""])


def _verdict(peaks: dict[tuple[str, int], float]) -> Iterator[str]:
    most = max(peaks.values()) / 1024
    yield f"The greatest peak is {most:.2f} GiB; the line is {LIMIT_GIB} GiB."
    both = sorted({part for part, _ in peaks if all((part, n) in peaks for n in IMAGES)} - {BEFORE})
    grown = ", ".join(f"{p} {peaks[p, IMAGES[1]] / peaks[p, IMAGES[0]]:.3f}" for p in both)
    if grown:
        yield f"Peak on {IMAGES[1]:,} images against {IMAGES[0]}: {grown}."


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
    python = f"Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {python}, {libraries}."


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder that is there only once it is finished."""
    temporary = folder.with_name(f"{folder.name}.unfinished")
    temporary.mkdir(parents=True, exist_ok=True)
    yield temporary
    temporary.rename(folder)


def main() -> None:
    """Measure all parts and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the page is written; else it is printed")
    parser.add_argument("--folder", type=Path, default=Path("runs/memory"), help="of the images")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--part", choices=["search", EVALUATION], help="measure one here")
    parser.add_argument("--images", type=int, default=IMAGES[0], help="images of that one")
    parser.add_argument("--network", default="resnet50", help="of that one")
    parser.add_argument("--classes", type=int, default=1000, help="of that one")
    parser.add_argument("--size", type=int, default=224, help="pixels of that one")
    parser.add_argument(
        "--held", action="store_true", help="hold the images of that one in memory, to compare with"
    )
    options = parser.parse_args()
    if options.part:
        measure(
            options.part,
            options.folder,
            options.images,
            built(options.network, options.classes),
            size=options.size,
            is_held=options.held,
        )
        return
    if not options.table:
        measure_all(options.folder)
    text = page(read(options.folder / "parts.json"))
    if options.out is None:
        print(text)
    else:
        with atomic(options.out) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
