"""What a repair costs and gains by its number of images and positions, at one uniform sparsity.

Half the MACs of a CIFAR network with published weights, the same channels for all rows. Calibration
images are drawn from the original training images; accuracy is measured on the 1,017 original test
images before fine-tuning, as the median over seeds, which draw the images and the positions. It
prints a Markdown table.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amc_env import Budget, ChannelGraph, PruningData, RepairSettings
from amc_env.criteria import make_criterion
from amc_env.env import BudgetKeeper
from amc_env.evaluation import Evaluator
from amc_env.repair import Pruner
from benchmarks.subjects import Subject, published

IMAGES, POSITIONS = (128, 250, 500, 1000, 3000), (4, 16, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """A network, and the channels that leave half of its MACs."""

    subject: Subject
    graph: ChannelGraph
    counts: dict[str, int]

    @classmethod
    def of(cls, subject: Subject) -> "Half":
        """A network at one sparsity for all groups."""
        graph = ChannelGraph(subject.model, subject.train.inputs[:2], ignore=subject.ignore)
        counts = BudgetKeeper(graph, Budget(flops=0.5)).scaled({})
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


def rows(half: Half, options: argparse.Namespace) -> Iterator[str]:
    """A line for each repair, number of images and positions."""
    test = Evaluator(half.subject.test, precision="float32")
    cases = [("plain", n, 16, {"repair": "plain"}) for n in options.images]
    cases += [
        ("plain, norms again", n, 16, {"repair": "plain", "norm_samples": 50})
        for n in options.images
    ]
    cases += [
        ("layer by layer", n, positions, {"episode_samples": None})
        for n in options.images
        for positions in options.positions
    ]
    for name, images, positions, fields in cases:
        found = []
        for seed in range(options.seeds):
            settings = RepairSettings(sampled_positions=positions, seed=seed, **fields)
            model, seconds = timed(half.pruner(images, settings), half.counts)
            found.append((test.evaluate(model), seconds))
        accuracy, seconds = (statistics.median(values) for values in zip(*found, strict=True))
        yield f"| {name} | {images} | {positions} | {seconds:.2f} | {accuracy:.4f} |"


def main() -> None:
    """Print the table of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, metavar="FOLDER", help="holds data/ and models/")
    parser.add_argument("--model", default="cifar_resnet56")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| repair | images | positions | seconds | accuracy |\n| --- | --: | --: | --: | --: |")
    for row in rows(Half.of(published(options.shared, options.model)), options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
