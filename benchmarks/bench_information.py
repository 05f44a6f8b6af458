"""Seconds to score all groups of a VGG-16 for CIFAR by ``mi_aura`` and by ``hrel``.

Random weights, random samples of 3 x 32 x 32 in 10 classes, one thread. Both criteria read the same
maps, which each makes again for every group; making them is timed by itself as well and taken off.
Criteria take turns group by group, so that what else runs on the machine meets both alike.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial

import torch

from amc_env import ChannelGraph, ChannelGroup
from amc_env.calibration import Calibration, calibrate
from amc_env.criteria import channel_scores, make_criterion
from amc_env.models import build_model

NAMES = ("mi_aura", "hrel")
CLASSES = 10


def prepare(samples: int, seed: int) -> tuple[ChannelGraph, Calibration]:
    """The network and its samples."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model("cifar_vgg16", seed=seed).eval()
    images = torch.randn(samples, 3, 32, 32, generator=generator)
    labels = torch.arange(samples) % CLASSES
    return ChannelGraph(model, images[:2]), calibrate(model, images.split(50), labels=labels)


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(group: ChannelGroup, calibration: Calibration) -> dict[str, float]:
    """Seconds to make the maps of a group, and to score it by each criterion, maps included."""

    def maps() -> None:
        for producer in group.producers:
            calibration.maps(producer)

    times = {"maps": seconds(maps)}
    for name in NAMES:
        criterion = make_criterion(name)
        times[name] = seconds(partial(channel_scores, criterion, group, calibration))
    return times


def main() -> None:
    """Print a line for each group, the sums and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--layers", type=int, help="only the first so many groups")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    graph, calibration = prepare(options.samples, options.seed)
    groups = graph.groups[: options.layers]
    # The first calls compile and load what the later ones find ready.
    measure(groups[0], calibration)
    print(f"{options.samples} samples, torch {torch.__version__}, {platform.machine()}, one thread")
    columns = ("maps", *NAMES)
    print(f"{'group':16}{'channels':>9}{'size':>7}" + "".join(f"{c + ', s':>12}" for c in columns))
    total = dict.fromkeys(columns, 0.0)
    for group in groups:
        times = measure(group, calibration)
        height, width = calibration.maps(group.producers[0]).shape[-2:]
        cells = "".join(f"{times[c]:>12.2f}" for c in columns)
        print(f"{group.name:16}{group.channels:>9}{f'{height}x{width}':>7}{cells}", flush=True)
        total = {c: total[c] + times[c] for c in columns}
    channels = sum(group.channels for group in groups)
    print(f"{'all':16}{channels:>9}{'':>7}" + "".join(f"{total[c]:>12.2f}" for c in columns))
    aura, hrel = (total[name] for name in NAMES)
    print(f"hrel / mi_aura: {hrel / aura:.2f}")
    aura, hrel = aura - total["maps"], hrel - total["maps"]
    print(f"hrel / mi_aura without making the maps: {hrel / aura:.2f}")


if __name__ == "__main__":
    main()
