"""AME of one wide layer against scikit-image's co-occurrence matrices, on one thread.

The maps are (100, 512, 14, 14), half zeros as after a ReLU, at 256 bins. All ways quantise each
channel by its own range and take the entropies of the tables of two offsets; the baselines differ
in how ``graycomatrix`` counts the pairs. They run on a few channels, and their times are scaled to
all 512. One round times every way in turn; the medians are over rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from skimage.feature import graycomatrix
from torch import Tensor

from amc_env.information.aura import spatial_entropy

SHAPE = (100, 512, 14, 14)
BINS = 256
# One of the two offsets each; maps are stacked so that no pair spans two of them.
RIGHT, DOWN = 0.0, np.pi / 2


def quantised(channel: Tensor) -> np.ndarray:
    """Bytes of a channel (n, H, W), as ``graycomatrix`` reads them."""
    values = channel.double().numpy()
    low, high = values.min(), values.max()
    scaled: np.ndarray = (values - low) / (high - low) * BINS
    capped: np.ndarray = np.minimum(scaled, BINS - 1).astype(np.uint8)
    return capped


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy of counts, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def relative(table: np.ndarray) -> float:
    """The relative entropy of one table of pairs."""
    base = (entropy(table.sum(0)) + entropy(table.sum(1))) / 2
    return entropy(table) / base - 1


def pairs(image: np.ndarray, *angles: float) -> np.ndarray:
    """How often neighbours have each pair of values, (values, values, angles)."""
    counts: np.ndarray = graycomatrix(image, [1], angles, BINS)[:, :, 0]  # type: ignore[no-untyped-call]
    return counts


def stacked(x: Tensor) -> Tensor:
    """AME of each channel with its samples side by side in one image, per offset."""
    values = []
    for c in range(x.shape[1]):
        q = quantised(x[:, c])
        side_by_side = np.ascontiguousarray(q.transpose(1, 0, 2)).reshape(q.shape[1], -1)
        images = ((q.reshape(-1, q.shape[2]), RIGHT), (side_by_side, DOWN))
        tables = [pairs(i, angle)[:, :, 0] for i, angle in images]
        values.append(sum(relative(t) for t in tables) / 2)
    return torch.tensor(values)


def per_map(x: Tensor) -> Tensor:
    """AME of each channel with one call a map, whose tables are added up."""
    values = []
    for c in range(x.shape[1]):
        counts = np.zeros((BINS, BINS, 2), dtype=np.int64)
        for q in quantised(x[:, c]):
            counts += pairs(q, RIGHT, DOWN)
        values.append(sum(relative(counts[:, :, i]) for i in (0, 1)) / 2)
    return torch.tensor(values)


def seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(x)
    return time.perf_counter() - start


def main() -> None:
    """Print the table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).relu_()
    ways: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
        "amc_env": (lambda x: spatial_entropy(x, bins=BINS), SHAPE[1]),
        "graycomatrix, stacked": (stacked, 64),
        "graycomatrix, per map": (per_map, 4),
    }
    own = spatial_entropy(x[:, :4], bins=BINS)
    for name, (function, _) in ways.items():
        difference = float((function(x[:, :4]) - own).abs().max())
        if difference > 1e-5:
            raise RuntimeError(f"{name} differs by {difference:.1e}; the ways must agree")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (function, channels) in ways.items():
            part = x[:, :channels].contiguous()
            times[name].append(seconds(function, part) * SHAPE[1] / channels)
    print(f"AME of {SHAPE} at {BINS} bins, one thread, median of {rounds} rounds")
    print(f"{'way':24}{'channels timed':>16}{'seconds for all':>17}{'ratio':>8}")
    first = times["amc_env"]
    for name, (_, channels) in ways.items():
        ratio = statistics.median(b / a for a, b in zip(first, times[name], strict=True))
        median = statistics.median(times[name])
        print(f"{name:24}{channels:>16}{median:>17.3f}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
