"""What a repair costs and gains by its number of images and positions, at one uniform sparsity.

Half the MACs of a CIFAR network with published weights, the same channels for all rows. Calibration
images are drawn from the original training images; accuracies are per cent of the original test
images, and of all where ``--data`` has re-encoded ones too, before any training, as the median over
seeds, which draw the images and the positions. "without pull" leaves out the pull towards the plain
repair that makes up for few rows (``rows_per_input=0``). It prints a Markdown table.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from amc_env import Budget, ChannelGraph, PruningData, RepairSettings
from amc_env.criteria import make_criterion
from amc_env.env import BudgetKeeper
from amc_env.evaluation import Evaluator
from amc_env.repair import Pruner
from benchmarks.subjects import Subject, add_published_options, is_right, published

IMAGES, POSITIONS = (64, 128, 250, 500, 1000, 3000), (4, 16, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """A network, and the channels that leave half of its MACs."""

    subject: Subject
    graph: ChannelGraph
    counts: dict[str, int]

    @classmethod
    def of(cls, subject: Subject, *, flops: float) -> "Half":
        """A network at one sparsity for all groups."""
        graph = ChannelGraph(subject.model, subject.train.first(2), ignore=subject.ignore)
        counts = BudgetKeeper(graph, Budget(flops=flops)).scaled({})
        return cls(subject=subject, graph=graph, counts=counts)

    def pruner(self, images: int, settings: RepairSettings) -> Pruner:
        """A pruner on images that a seed draws."""
        drawn = PruningData.of_training(
            self.subject.train, calibration=images, validation=1, selection=1, seed=settings.seed
        )
        return Pruner(self.graph, drawn.calibration, make_criterion("l2"), repair=settings)


def timed(made: Pruner, counts: dict[str, int]) -> tuple[nn.Module, float]:
    """A repaired network, and how long a repair takes once the targets are held."""
    made.prune(counts)
    started = time.perf_counter()
    return made.prune(counts).model, time.perf_counter() - started


def cases(options: argparse.Namespace) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Name of a repair, images, positions, and the settings that make it."""
    every = {"episode_samples": None}
    for images in options.images:
        yield "plain", images, 16, {"repair": "plain"}
        yield "plain, norms again", images, 16, {"repair": "plain", "norm_samples": 50}
        yield "layer by layer, without pull", images, 16, {**every, "rows_per_input": 0}
        for positions in options.positions:
            yield "layer by layer", images, positions, every


def rows(half: Half, options: argparse.Namespace) -> Iterator[str]:
    """A line for each repair, number of images and positions."""
    subject = half.subject
    test = Evaluator(subject.test, precision="float32")
    for name, images, positions, fields in cases(options):
        found = []
        for seed in range(options.seeds):
            settings = RepairSettings(sampled_positions=positions, seed=seed, **fields)
            model, seconds = timed(half.pruner(images, settings), half.counts)
            right = is_right(test, model).double()
            of_originals = float(right[subject.is_original].mean())
            found.append((seconds, 100 * of_originals, 100 * float(right.mean())))
        shown = [f"{statistics.median(values):.2f}" for values in zip(*found, strict=True)]
        yield f"| {name} | {images} | {positions} | {' | '.join(shown)} |"


def main() -> None:
    """Print the table of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_published_options(parser, model="cifar_resnet56")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    subject = published(options.folder, options.model, data=options.data)
    tested = len(subject.test)
    print(
        f"| repair | images | positions | seconds | {int(subject.is_original.sum())} originals "
        f"| all {tested} |\n| --- | --: | --: | --: | --: | --: |"
    )
    for row in rows(Half.of(subject, flops=options.flops), options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
