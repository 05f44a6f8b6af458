"""Segmenters and detectors, trained, pruned, repaired, fine-tuned, exported and read back.

All are trained here on synthetic shapes, so nothing is downloaded. Half of the
multiply-accumulates are left, which channels go is found by the error curves of the repair. Every
network is judged on test images; the masked network is the pruned one without any repair, which
computes the same as the original with the channels set to zero.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc_env import PruningData, load
from amc_env.agents import SearchResult, search
from amc_env.batches import call, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.data.datasets import Dataset
from amc_env.env.settings import EnvSettings
from amc_env.evaluation import Evaluator
from amc_env.export.formats import export
from amc_env.export.yolo import CHECKPOINT_FILE
from amc_env.files import write_text
from amc_env.models import find_model
from amc_env.policy import ModelSource, PrunedFacts, save_pruned
from amc_env.tasks import Detection, Segmentation, Task, Yolo
from amc_env.training import TrainingSettings, fit_
from benchmarks.tasks import shapes


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task with its data and network.

    Attributes:
        title: Its heading in the page.
        task: What the network is trained for.
        data: Makes its data.
        builder: What builds its network: a path, or a model file.
        epochs: How long the network is trained, and how long the pruned one is fine-tuned.
        rate: Learning rate of the training.
        options: Arguments of the builder.
        formats: What the pruned network is exported to.
        episodes: Policies that the search tries.
    """

    title: str
    task: Task
    data: Callable[..., Dataset]
    builder: str
    epochs: tuple[int, int]
    rate: float = 0.05
    options: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("torch_export", "onnx", "csv")
    episodes: int = 10

    def network(self) -> nn.Module:
        """The network with fresh weights, always the same."""
        torch.manual_seed(0)
        return find_model(self.builder, self.options).model


_COMMAND = "uv run --with ultralytics python -m benchmarks.tasks --out docs/results/tasks.md"
_SECONDS = "seconds are those of the whole row"
YOLO_IMAGES = {"train": 400, "val": 200, "size": 64, "seed": 0}

SUBJECTS = (
    Subject(
        title="Segmentation",
        task=Segmentation(output="out"),
        data=shapes.segmentation,
        builder="benchmarks.tasks.networks.unet",
        epochs=(16, 5),
    ),
    Subject(
        title="Detection",
        task=Detection(),
        data=shapes.detection,
        builder="benchmarks.tasks.networks.detector",
        epochs=(24, 6),
    ),
    Subject(
        title="Ultralytics' YOLO11n",
        task=Yolo(),
        data=partial(shapes.yolo, **YOLO_IMAGES),
        builder="yolo11n.yaml",
        options={"nc": len(shapes.SHAPES)},
        epochs=(20, 4),
        rate=0.02,
        formats=("yolo", "csv"),
        episodes=1,
    ),
)


def compared(subject: Subject) -> tuple[dict[str, float], SearchResult, list[str]]:
    """The metric of every network, what the search found, and what came of its files."""
    data, model = subject.data(), subject.network()
    judge = Evaluator(data.test, precision="float32", task=subject.task)
    fit_(model, data.train, trained_for(subject.epochs[0], subject.rate), task=subject.task)
    parts = PruningData.of_training(
        data.train, test=data.test, calibration=200, validation=200, selection=0
    )
    found = search(
        model,
        calibration=parts.calibration,
        validation=parts.validation,
        budget=0.5,
        agent="error_curves",
        reward="loss",
        task=subject.task,
        settings=EnvSettings(precision="float32"),
        episodes=subject.episodes,
        finalists=1,
    )
    networks_by_name = {
        "original": model,
        "masked": found.policy.apply(model),
        "repaired": found.compact,
    }
    values = {name: judge.evaluate(network) for name, network in networks_by_name.items()}
    tuned = found.compact
    tuning = trained_for(subject.epochs[1], subject.rate / 5, distil=0.5)
    fit_(tuned, data.train, tuning, task=subject.task, teacher=model)
    values["fine-tuned"] = judge.evaluate(tuned)
    return values, found, read_back(subject, found, tuned, data)


def trained_for(epochs: int, rate: float, *, distil: float = 0.0) -> TrainingSettings:
    """How networks are trained; the pruned ones learn from the original too."""
    return TrainingSettings(
        epochs=epochs,
        learning_rate=rate,
        batch=16,
        warmup=0.1,
        clip=5.0,
        distil=distil,
        precision="float32",
    )


def read_back(subject: Subject, found: SearchResult, tuned: nn.Module, data: Dataset) -> list[str]:
    """Write a network in several formats, read it back, and say how far its outputs are off."""
    source = ModelSource(name=subject.builder, options=dict(subject.options))
    policy = found.policy.model_copy(update={"source": source})
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(folder, policy, tuned, PrunedFacts(macs=0))
        loaded = load(folder, subject.builder)
        written = export(Path(folder), subject.formats, out=Path(folder), model=subject.builder)
        names = [path.name for path in written]
        names += judged_by_ultralytics(Path(folder), subject) if "yolo" in subject.formats else []
    images = data.test.first(8)
    with evaluating(tuned), evaluating(loaded):
        pairs = zip(tensors_in(call(tuned, images)), tensors_in(call(loaded, images)), strict=True)
        off = max(float((own - other).abs().max()) for own, other in pairs)
    return [f"read back by `amc_env.load`: largest difference {off:.0e}", *names]


def judged_by_ultralytics(folder: Path, subject: Subject) -> list[str]:
    """The checkpoint's mAP by Ultralytics' own validation, on the same test images."""
    from ultralytics import YOLO

    network = YOLO(folder / CHECKPOINT_FILE)
    described = shapes.write_yolo(folder / "shapes", **YOLO_IMAGES)
    where = {"project": str(folder), "name": "val", "workers": 0, "plots": False}
    # By default it pads images to 96 pixels, and the network has never seen a padded one.
    where |= {"imgsz": YOLO_IMAGES["size"], "rect": False}
    found = network.val(data=str(described), verbose=False, **where)
    return [f"validated by `ultralytics.YOLO`: mAP {subject.task.metric.text(found.box.map)}"]


def section(subject: Subject) -> str:
    """What the page says about a subject."""
    started = time.perf_counter()
    values, found, files = compared(subject)
    seconds, metric = time.perf_counter() - started, subject.task.metric
    cells = " | ".join(metric.text(value) for value in values.values())
    lines = [
        f"| MACs left | {' | '.join(f'{metric.name}, {name}' for name in values)} | seconds |",
        f"| --: |{' --: |' * len(values)} --: |",
        f"| {found.best.flops_ratio:.3f} | {cells} | {seconds:.0f} |",
        "",
        f"Files: {', '.join(files)}.",
        "",
        f"PyTorch {torch.__version__}, {platform.machine()}, one thread, one seed; {_SECONDS}.",
    ]
    return "\n".join(lines)


def sections_in(page: str) -> dict[str, str]:
    """The sections of a page by their headings."""
    parts = [part.partition("\n") for part in page.split("\n## ")[1:]]
    return {title: text.strip() for title, _, text in parts}


def page_of(sections: Mapping[str, str]) -> str:
    """The whole page, with the sections in the order of the subjects."""
    described = " ".join((__doc__ or "").partition("\n\n")[2].split())
    head = [
        "# Tasks",
        f"Made by `{_COMMAND}`; a single section anew by `--only TITLE`.",
        described,
    ]
    titles = [subject.title for subject in SUBJECTS if subject.title in sections]
    parts = [f"## {title}\n\n{sections[title]}" for title in titles]
    return "\n\n".join([*head, *parts]) + "\n"


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the file to write; printed if not given")
    titles = [subject.title for subject in SUBJECTS]
    parser.add_argument(
        "--only", choices=titles, help="the section to make; the others stay as the file has them"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sections: dict[str, str] = {}
    if arguments.out and arguments.only:
        with suppress(FileNotFoundError):
            sections = sections_in(arguments.out.read_text(encoding="utf-8"))
    for subject in SUBJECTS:
        if arguments.only in (None, subject.title):
            sections[subject.title] = section(subject)
    if arguments.out:
        write_text(arguments.out, page_of(sections))
    else:
        print(page_of(sections))


if __name__ == "__main__":
    main()
