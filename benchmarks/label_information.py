"""How much of each measure is about the class, and how AME depends on the number of pairs.

Every measure scores the channels of a trained network with the true labels and with labels shuffled
over the samples. A shuffled label tells nothing about its sample, so what a score keeps under it is
not information about the class. With a folder as ``resnet56_criteria.py`` takes, the network is the
published ResNet-56; without, a ``digits_cnn`` trained here on scikit-learn's digits.

The second table is AME of independent uniform pixels, whose true value is 1.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from amc_env import ChannelGraph, Split
from amc_env.calibration import Calibration, calibrate
from amc_env.information.aura import live_channels, spatial_entropy
from amc_env.information.class_mi import class_mi, class_mi_excess
from amc_env.information.label_grid import grid_mi, label_grids
from amc_env.information.renyi import renyi_mi
from amc_env.models import build_model, load_checkpoint_
from amc_env.training import TrainingSettings, fit_

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# One inner group of each stage: maps of 32, 16 and 8 pixels.
RESNET_GROUPS = ("layer1.4.conv1", "layer2.4.conv1", "layer3.4.conv1")
SIZES, SAMPLES, AME_BINS, NOISE_CHANNELS = (2, 4, 8, 16, 32), (1, 10, 100), 256, 16

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, what it was called with, and the groups to look at."""

    graph: ChannelGraph
    calibration: Calibration
    groups: tuple[str, ...]


def resnet56(options: argparse.Namespace) -> Trained:
    """The published weights and images drawn from the training data."""
    data = np.load(options.shared / "data" / "cifar10_lossless.npz")
    model = build_model("cifar_resnet56")
    load_checkpoint_(model, options.shared / "models" / "cifar10_resnet56.th")
    drawn = np.random.default_rng(options.seed).permutation(len(data["train_x"]))[: options.images]
    images = torch.from_numpy(data["train_x"][drawn]).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(data["train_y"][drawn]).long()
    return trained(model, (images - MEAN) / DEVIATION, labels, RESNET_GROUPS)


def digits(options: argparse.Namespace) -> Trained:
    """A small network trained on three quarters of the digits; the rest tells its accuracy."""
    bunch = load_digits()
    images = torch.tensor(bunch.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
    held_out, train = order[:450], order[450:]
    model = build_model("digits_cnn", seed=options.seed)
    split = Split(inputs=images[train], labels=labels[train])
    fit_(model, split, TrainingSettings(epochs=options.epochs), seed=options.seed)
    with torch.no_grad():
        right = model.eval()(images[held_out]).argmax(1) == labels[held_out]
    print(f"accuracy on {len(held_out)} digits held out: {right.double().mean():.4f}")
    drawn = train[: options.images]
    return trained(model, images[drawn], labels[drawn], None)


def trained(
    model: nn.Module, images: Tensor, labels: Tensor, groups: tuple[str, ...] | None
) -> Trained:
    """The record of a network and its calibration; all groups where none are named."""
    model.eval()
    graph = ChannelGraph(model, images[:2])
    calibration = calibrate(model, images.split(50), labels=labels)
    return Trained(
        graph=graph,
        calibration=calibration,
        groups=groups or tuple(group.name for group in graph.groups),
    )


def measures(classes: int, orders: Tensor) -> dict[str, Measure]:
    """Scores of maps by labels, as the criteria of the same settings give them."""

    def by_grid(maps: Tensor, labels: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        return grid_mi(maps, label_grids(labels, classes=classes, size=(height, width)), bins=128)

    return {
        "grid_mi": by_grid,
        "class_mi": class_mi,
        "class_mi_excess": lambda maps, labels: class_mi_excess(maps, labels, orders),
        "renyi_mi": renyi_mi,
    }


def label_rows(subject: Trained, *, shuffles: int, seed: int) -> Iterator[str]:
    """A line of the first table for each group and measure."""
    labels = subject.calibration.known_labels()
    generator = torch.Generator().manual_seed(seed)
    # The second half are the permutations that class_mi_excess takes its bias from.
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(2 * shuffles)]
    by_name = {group.name: group for group in subject.graph.groups}
    every = measures(int(labels.max()) + 1, torch.stack(orders[shuffles:]))
    for name in subject.groups:
        maps = subject.calibration.maps(by_name[name].producers[0])
        # Dead channels, far below all others under any labels, would make up the correlations.
        maps = maps[:, live_channels(maps)]
        size = f"{maps.shape[2]}x{maps.shape[3]}"
        direct = every["class_mi_excess"](maps, labels).double()
        for measure, score in every.items():
            true = score(maps, labels).double()
            shuffled = torch.stack([score(maps, labels[order]) for order in orders[:shuffles]])
            cells = figures(true, shuffled.double(), direct)
            yield f"| {name} | {size} | {maps.shape[1]} | {measure} | {cells} |"


def figures(true: Tensor, shuffled: Tensor, direct: Tensor) -> str:
    """Means over channels, rank correlations over channels, and how far true labels stand out.

    The correlations are the means of those of the true scores with each shuffled row and of the
    shuffled rows with each other: where both are alike, the true labels are one more shuffle. Then
    comes the root mean square over channels of the true score less the mean shuffled one, in
    deviations of a channel's score between shuffles: about 1 where true labels are one more
    shuffle. The last number is the rank correlation of that difference with ``direct``, the excess
    information about the class itself.
    """
    count = len(shuffled)
    every = rank_correlation(torch.cat([true[None], shuffled]))
    with_shuffled = every[0, 1:].mean()
    among = (every[1:, 1:].sum() - count) / (count * (count - 1))
    noise = shuffled.var(0).mean().sqrt() * (1 + 1 / count) ** 0.5
    difference = true - shuffled.mean(0)
    apart = difference.square().mean().sqrt() / noise
    agrees = rank_correlation(torch.stack([difference, direct]))[0, 1]
    numbers = (true.mean(), shuffled.mean(), with_shuffled, among)
    last = f" | {apart:.1f} | {agrees:.2f}"
    return " | ".join(f"{number:.4f}" for number in numbers) + last


def rank_correlation(rows: Tensor) -> Tensor:
    """Spearman's correlation of each row with each other; rows have no equal numbers."""
    return torch.corrcoef(rows.argsort(1).argsort(1).double())


def noise_rows(seed: int) -> Iterator[str]:
    """A line of the second table for each size of map and number of samples."""
    generator = torch.Generator().manual_seed(seed)
    for size in SIZES:
        cells = []
        for samples in SAMPLES:
            noise = torch.rand(samples, NOISE_CHANNELS, size, size, generator=generator)
            ame = spatial_entropy(noise, bins=AME_BINS).mean()
            cells.append(f"{ame:.3f} ({samples * size * (size - 1)})")
        yield f"| {size}x{size} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, nargs="?", help="folder with data/ and models/")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--shuffles", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of the digits network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = resnet56(options) if options.shared else digits(options)
    print(
        f"seed {options.seed}, {options.images} samples, {options.shuffles} shuffles, "
        f"means over live channels, torch {torch.__version__}\n"
    )
    print(
        "| group | maps | live channels | measure | true | shuffled | true with shuffled "
        "| among shuffled | apart | agrees |"
    )
    print("| --- | --: | --: | --- | --: | --: | --: | --: | --: | --: |")
    for row in label_rows(subject, shuffles=options.shuffles, seed=options.seed):
        print(row, flush=True)
    print(f"\nAME of uniform noise at {AME_BINS} bins (pairs an offset); {AME_BINS**2} cells\n")
    print("| maps | " + " | ".join(f"samples: {n}" for n in SAMPLES) + " |")
    print("| --- |" + " --: |" * len(SAMPLES))
    for row in noise_rows(options.seed):
        print(row)


if __name__ == "__main__":
    main()
