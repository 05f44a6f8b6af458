"""What training gains where repaired norms have the statistics of their own inputs.

Every inner group of a published ResNet is cut to half and repaired layer by layer on 300 images.
The norms have the statistics of the original then, or those of what reaches them
(``amc_env.repair.norms.rebase_norms_``): the same network, until it is trained. Both are fine-tuned
on the same images, with the labels alone. Accuracies are in per cent of all test images, medians
over seeds, which draw the images too; differences are paired by image and seed, with 95 %
intervals. "in training mode" is the accuracy on the test images in batches of 64 that are
normalised by their own statistics, as in the first step of a training.

    uv run python -m benchmarks.norms FOLDER --data ALL.npz --models cifar_resnet20 cifar_resnet56
"""

import argparse
import copy
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc_env import ChannelGraph, PruningData, RepairSettings
from amc_env.criteria import make_criterion
from amc_env.data.datasets import arrays
from amc_env.data.holding_out import hold_out
from amc_env.evaluation import Evaluator
from amc_env.repair.norms import rebase_norms_
from amc_env.repair.pruner import Pruner
from amc_env.repair.sequential import repair_sequentially_
from amc_env.studies.intervals import Booleans, paired_difference
from amc_env.training import TrainingSettings, fit_
from benchmarks.subjects import Subject, is_right, published

# As runs fine-tune, but with the labels alone.
RECIPE = TrainingSettings(
    learning_rate=0.01, warmup=0.1, batch=64, min_steps=16, clip=1.0, shift=4, flip=True
)
_CALIBRATION, _OTHERS, _BATCH = 300, 500, 64
_STAGES = ("repaired", "in training mode", "fine-tuned")
_NORMS = ("the original's", "their own")

Right = dict[tuple[str, str], Booleans]


def main() -> None:
    """Print a row for each network, and each of the two kinds of statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds models/ and, without --data, data/")
    parser.add_argument("--data", type=Path, required=True, help="an .npz of all images")
    parser.add_argument("--models", nargs="+", default=["cifar_resnet20"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--samples", type=int, default=10_000, help="images of an epoch")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    varied = {name: getattr(options, name) for name in ("epochs", "samples", "precision")}
    recipe = replace(RECIPE, **varied)
    print(_line(["network", "norms", *_STAGES, "fine-tuned, to the original's norms"]))
    print(_line(["---"] * 2 + ["--:"] * (len(_STAGES) + 1)), flush=True)
    for name in options.models:
        subject = published(options.folder, name, data=options.data)
        found = [_compared(subject, options.data, recipe, seed=seed) for seed in options.seeds]
        for line in _lines(name, found):
            print(_line(line), flush=True)


def _compared(subject: Subject, data: Path, recipe: TrainingSettings, *, seed: int) -> Right:
    """Which test images are right with both kinds of norms at every stage, with one seed."""
    train = arrays(path=str(data)).train
    drawn = PruningData.of_training(
        train, calibration=_CALIBRATION, validation=_OTHERS, selection=_OTHERS, seed=seed
    )
    fitted, _ = hold_out(
        train, calibration=_CALIBRATION, validation=_OTHERS, selection=_OTHERS, seed=seed
    )
    test = Evaluator(subject.test, precision="float32")
    found: Right = {}
    for norms, network in _repaired(subject, drawn).items():
        found[norms, "repaired"] = is_right(test, network).numpy()
        found[norms, "in training mode"] = _right_by_batches(test, network)
        fit_(network, fitted, recipe, seed=seed)
        found[norms, "fine-tuned"] = is_right(test, network).numpy()
    return found


def _repaired(subject: Subject, drawn: PruningData) -> Mapping[str, nn.Module]:
    """The same repaired network with both kinds of norms."""
    samples = drawn.calibration
    graph = ChannelGraph(subject.model, samples.first(2), ignore=subject.ignore)
    settings = RepairSettings()
    pruner = Pruner(graph, samples, make_criterion("l2"), repair=settings)
    kept = pruner.kept({group.name: group.channels // 2 for group in graph.groups})
    before, batches = graph.compact(kept), pruner.calibration.batches
    pruner.plan.apply_(before, kept)
    repair_sequentially_(before, graph, kept, batches, settings=settings.by_layer)
    after = copy.deepcopy(before)
    rebase_norms_(after, batches)
    return dict(zip(_NORMS, (before, after), strict=True))


@torch.no_grad()
def _right_by_batches(test: Evaluator, network: nn.Module) -> Booleans:
    """Which test images are right where norms use the statistics of each batch."""
    training = copy.deepcopy(network).eval()
    for module in training.modules():
        module.training = isinstance(module, _BatchNorm)
    labels = test.split.labels
    assert isinstance(labels, Tensor)
    scores = [training(x) for x in test.split.parts(_BATCH)]
    return (torch.cat(scores).argmax(1) == labels).numpy()


def _lines(name: str, found: list[Right]) -> Iterator[list[str]]:
    """The rows of a network."""
    for norms in _NORMS:
        medians = [
            f"{statistics.median(100 * one[norms, stage].mean() for one in found):.2f}"
            for stage in _STAGES
        ]
        own, other = (np.stack([one[n, _STAGES[-1]] for one in found]) for n in (norms, _NORMS[0]))
        difference = paired_difference(own, other)
        low, high = 100 * difference.low, 100 * difference.high
        to_first = f"{100 * difference.mean:+.2f} ({low:+.2f} to {high:+.2f})"
        yield [name, norms, *medians, "" if norms == _NORMS[0] else to_first]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
