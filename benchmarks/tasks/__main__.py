"""A segmenter and a detector, trained, pruned, repaired, fine-tuned, exported and read back.

Both are trained here on synthetic shapes, so nothing is downloaded. Half of the
multiply-accumulates are left, which channels go is found by the error curves of the repair. Every
network is judged on 300 test images; the masked network is the pruned one without any repair,
which computes the same as the original with the channels set to zero.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amc_env import PruningData, load
from amc_env.agents import SearchResult, search
from amc_env.batches import call, first, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.data.datasets import Dataset
from amc_env.env.settings import EnvSettings
from amc_env.evaluation import Evaluator
from amc_env.export.formats import export
from amc_env.policy import ModelSource, PrunedFacts, save_pruned
from amc_env.tasks import Detection, Segmentation, Task
from amc_env.training import TrainingSettings, fit_
from benchmarks.tasks import networks, shapes

FORMATS = ("torch_export", "onnx", "csv")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task with its data and network.

    Attributes:
        task: What the network is trained for.
        data: Makes its data.
        builder: The path of the function that builds its network.
        epochs: How long the network is trained, and how long the pruned one is fine-tuned.
    """

    task: Task
    data: Callable[..., Dataset]
    builder: str
    epochs: tuple[int, int]

    def network(self) -> nn.Module:
        """The network with fresh weights."""
        network: nn.Module = getattr(networks, self.builder.rpartition(".")[2])()
        return network


SUBJECTS = (
    Subject(
        task=Segmentation(output="out"),
        data=shapes.segmentation,
        builder="benchmarks.tasks.networks.unet",
        epochs=(16, 5),
    ),
    Subject(
        task=Detection(),
        data=shapes.detection,
        builder="benchmarks.tasks.networks.detector",
        epochs=(24, 6),
    ),
)


def compared(subject: Subject) -> tuple[dict[str, float], SearchResult, list[str]]:
    """The metric of every network, what the search found, and what came of its files."""
    data, model = subject.data(), subject.network()
    judge = Evaluator(data.test, precision="float32", task=subject.task)
    fit_(model, data.train, trained_for(subject.epochs[0], 0.05), task=subject.task)
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
        episodes=10,
        finalists=1,
    )
    networks_by_name = {
        "original": model,
        "masked": found.policy.apply(model),
        "repaired": found.compact,
    }
    values = {name: judge.evaluate(network) for name, network in networks_by_name.items()}
    tuned = found.compact
    fit_(tuned, data.train, trained_for(subject.epochs[1], 0.01), task=subject.task, teacher=model)
    values["fine-tuned"] = judge.evaluate(tuned)
    return values, found, read_back(subject, found, tuned, data)


def trained_for(epochs: int, rate: float) -> TrainingSettings:
    """How networks are trained; the pruned ones learn from the original too."""
    distil = 0.5 if rate < 0.05 else 0.0
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
    source = ModelSource(name=subject.builder)
    policy = found.policy.model_copy(update={"source": source})
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(folder, policy, tuned, PrunedFacts(macs=0))
        loaded = load(folder, subject.builder)
        written = export(Path(folder), FORMATS, out=Path(folder), model=subject.builder)
        names = [path.name for path in written]
    images = first(data.test.inputs, 8)
    with evaluating(tuned), evaluating(loaded):
        pairs = zip(tensors_in(call(tuned, images)), tensors_in(call(loaded, images)), strict=True)
        off = max(float((own - other).abs().max()) for own, other in pairs)
    return [f"read back by `amc_env.load`: largest difference {off:.0e}", *names]


def rows(subject: Subject) -> list[str]:
    """The lines of a task in the page."""
    started = time.perf_counter()
    values, found, files = compared(subject)
    seconds, metric = time.perf_counter() - started, subject.task.metric
    cells = " | ".join(metric.text(value) for value in values.values())
    share = f"{found.best.flops_ratio:.3f}"
    return [
        f"## {subject.task.name.capitalize()}",
        "",
        f"| MACs left | {' | '.join(f'{metric.name}, {name}' for name in values)} | seconds |",
        f"| --: |{' --: |' * len(values)} --: |",
        f"| {share} | {cells} | {seconds:.0f} |",
        "",
        f"Files: {', '.join(files)}.",
        "",
    ]


def page(subjects: tuple[Subject, ...]) -> str:
    """The whole page."""
    described = " ".join((__doc__ or "").partition("\n\n")[2].split())
    lines = [
        "# Tasks",
        "",
        "Made by `uv run python -m benchmarks.tasks --out docs/results/tasks.md`.",
        "",
        described,
        "",
    ]
    for subject in subjects:
        lines += rows(subject)
    versions = f"PyTorch {torch.__version__}, {platform.machine()}, one thread, one seed"
    return "\n".join([*lines, f"{versions}; seconds are those of the whole row."]) + "\n"


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the file to write; printed if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = page(SUBJECTS)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
