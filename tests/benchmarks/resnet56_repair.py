"""Accuracy of a pruned ResNet-56 on CIFAR-10 before fine-tuning, with and without repair.

Every block's inner group is cut to a share by the L2 norm of its filters; 300 calibration images
come from the original training images, accuracy is on the 1,017 original test images.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from amc_env import ChannelGraph, ChannelGroup
from amc_env.calibration import calibrate
from amc_env.models import build_model, load_checkpoint_
from amc_env.reconstruction import Reconstruction, repaired_layers
from amc_env.selection import ranking
from amc_env.sequential import repair_sequentially_
from amc_env.unfolding import RowSampling

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def normalised(images: np.ndarray) -> Tensor:
    """Bytes (N, H, W, 3) as the network's input."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - MEAN) / DEVIATION


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images classified right."""
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    )
    return right / len(labels)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A trained network, its data and a plan."""

    graph: ChannelGraph
    plan: Reconstruction
    inner: list[ChannelGroup]
    calibration: tuple[Tensor, ...]
    test: tuple[Tensor, Tensor]
    sampling: RowSampling


def prepare(options: argparse.Namespace) -> Setting:
    """Load network and data, calibrate and factor."""
    data = np.load(options.shared / "data" / "cifar10_lossless.npz")
    model = build_model("cifar_resnet56")
    load_checkpoint_(model, options.shared / "models" / "cifar10_resnet56.th")
    model.eval()
    test = (normalised(data["test_x"]), torch.from_numpy(data["test_y"]).long())
    drawn = np.random.default_rng(options.seed).permutation(len(data["train_x"]))[: options.images]
    batches = normalised(data["train_x"][drawn]).split(50)
    graph = ChannelGraph(model, test[0][:2])
    sampling = RowSampling(positions=options.positions, seed=options.seed)
    started = time.perf_counter()
    sums = calibrate(model, batches, layers=repaired_layers(graph), sampling=sampling)
    print(f"calibration {time.perf_counter() - started:.1f} s")
    modules = dict(model.named_modules())
    inner = [g for g in graph.groups if g.name != "conv1"]
    orders = {
        g.name: ranking(modules[g.name].weight.detach().flatten(1).norm(dim=1)) for g in inner
    }
    started = time.perf_counter()
    plan = Reconstruction(graph, sums, orders, ridge=options.ridge)
    print(f"factoring {time.perf_counter() - started:.2f} s")
    print(f"base {accuracy(model, *test):.4f}")
    return Setting(
        graph=graph, plan=plan, inner=inner, calibration=batches, test=test, sampling=sampling
    )


def measure(setting: Setting, share: float) -> None:
    """Print accuracies with every inner group cut to ``share``."""
    graph, plan = setting.graph, setting.plan
    counts = {g.name: round(share * g.channels) for g in setting.inner}
    kept = plan.kept(counts)
    compact = graph.compact(kept)
    plain = accuracy(compact, *setting.test)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        plan.apply_(compact, counts)
        times.append(1e3 * (time.perf_counter() - started))
    repaired = accuracy(compact, *setting.test)
    started = time.perf_counter()
    repair_sequentially_(compact, graph, kept, setting.calibration, sampling=setting.sampling)
    seconds = time.perf_counter() - started
    ratio = graph.cost(counts).flops / graph.cost().flops
    print(
        f"{share:.2f} of the inner channels, {ratio:.3f} of the FLOPs: {plain:.4f} without repair, "
        f"{repaired:.4f} with ({statistics.median(times):.1f} ms), "
        f"{accuracy(compact, *setting.test):.4f} sequential ({seconds:.0f} s)"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = prepare(options)
    for share in (0.75, 0.6, 0.5):
        measure(setting, share)


if __name__ == "__main__":
    main()
