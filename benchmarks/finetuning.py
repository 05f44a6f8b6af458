"""What a pruned CIFAR ResNet gains from fine-tuning, by recipe.

Every inner group is cut to half and repaired layer by layer on 500 images; the network is then
trained on the original training images with each recipe. Accuracy is measured on training images
that are held out from repair and training, by which a recipe may be chosen, and on the 1,017
original test images, which are only reported. The published weights were trained on all of the
training images, so the held-out accuracy of the original network says nothing.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from amc_env import ChannelGraph, PruningData, RepairSettings
from amc_env.criteria import make_criterion
from amc_env.data.datasets import Dataset, arrays
from amc_env.data.holding_out import hold_out
from amc_env.evaluation import Evaluator
from amc_env.models import build_model, load_checkpoint_
from amc_env.repair.pruner import Pruner
from amc_env.training import TrainingSettings, fit_

PLAIN = TrainingSettings(
    learning_rate=0.01, warmup=0.1, batch=64, min_steps=16, clip=1.0, precision="float32"
)
MOVED = replace(PLAIN, shift=4, flip=True)
RECIPES = {
    "plain": PLAIN,
    "shift and flip": MOVED,
    "shift, flip and distil": replace(MOVED, distil=0.5),
    "shift, flip and distil, rate 0.03": replace(MOVED, distil=0.5, learning_rate=0.03),
    "shift, flip and distil 0.9": replace(MOVED, distil=0.9),
}


def pruned(model: nn.Module, data: Dataset) -> nn.Module:
    """The network with half of the channels of each inner group, repaired layer by layer."""
    drawn = PruningData.of_training(data.train, calibration=500, validation=1000, seed=0)
    graph = ChannelGraph(model, drawn.calibration.first(2), ignore=("conv1",))
    pruner = Pruner(
        graph,
        drawn.calibration,
        make_criterion("l2"),
        repair=RepairSettings(match_residual_sums=True),
    )
    return pruner.prune_sequentially({g.name: g.channels // 2 for g in graph.groups})


def main() -> None:
    """Fine-tune with each recipe and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="CIFAR-10 as an .npz file")
    parser.add_argument("weights", type=Path, help="the weights of the network")
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = arrays(path=str(options.data))
    model = build_model(options.model).eval()
    load_checkpoint_(model, options.weights)
    start = pruned(model, data)
    fitted, held = hold_out(data.train, calibration=500, validation=1000, selection=1000, seed=0)
    judges = [Evaluator(split, precision="float32") for split in (held, data.test)]
    print("| recipe | held out | test | processor seconds |\n| --- | --: | --: | --: |", flush=True)
    for name, network in (("original", model), ("repaired", start)):
        print(f"| {name} | {' | '.join(f'{j.evaluate(network):.2%}' for j in judges)} | |")
    for name in options.recipes:
        tuned, began = copy.deepcopy(start), time.process_time()
        fit_(tuned, fitted, replace(RECIPES[name], epochs=options.epochs), teacher=model)
        figures = [f"{judge.evaluate(tuned):.2%}" for judge in judges]
        print(f"| {name} | {' | '.join(figures)} | {time.process_time() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()
