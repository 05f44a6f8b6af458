"""Repair of VGG-16 for CIFAR at new numbers kept, against scikit-learn's refits, on one thread.

Each group keeps a random share of its channels, the best by the L2 norm of their filters. The plan
is factored once and asked for the weights of all layers that read a group. scikit-learn's
``LinearRegression`` refits one layer after another as the original AMC does: float32 rows of 10
positions of each image, drawn anew with replacement for every batch. Its time is that of ``fit``
alone, without gathering the rows; lines are in seconds of the processor, totals in those of the
wall clock too. Residuals ``|XW - Y| / |Y|`` are over all positions of other images. The images are
noise and the weights random, unless a folder with CIFAR-10 is given; its images are then read, as
normalised bytes, and the weights are random still.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import calibrate
from amc_env.calibration.rows import RowSampling, layer_rows
from amc_env.criteria.ranking import ranking
from amc_env.models import build_model
from amc_env.models.vgg import CifarVgg
from amc_env.repair.norms import reestimate_norms_
from amc_env.repair.plan import Reconstruction, repaired_layers

T = TypeVar("T")

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# The sampling of the original AMC.
BATCH = 50
POINTS = 10
HELD_OUT = 300
SHARES = (0.3, 0.9)
REPEATS = 5


class Seconds(NamedTuple):
    """Time on the clock, and of the processor, which other processes do not stretch."""

    wall: float
    processor: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network, its images and a plan."""

    graph: ChannelGraph
    images: Tensor
    held_out: Tensor
    plan: Reconstruction
    counts: dict[str, int]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer in the original network: what it reads, and which channels stay."""

    name: str
    module: nn.Conv2d | nn.Linear
    images: Tensor
    held_out: Tensor
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table; ``lost`` and ``energy`` are ``|XW - Y|^2`` and ``|Y|^2``."""

    name: str
    rows: int
    columns: int
    outputs: int
    refit_time: Seconds
    plan_time: Seconds
    refit_lost: float
    plan_lost: float
    energy: float


def load_images(folder: Path | None, count: int, seed: int) -> Tensor:
    """Images as the network reads them: (count, 3, 32, 32)."""
    if folder is None:
        return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    data = np.load(folder / "cifar10_lossless.npz")["train_x"]
    if count > len(data):
        raise ValueError(f"{folder} holds {len(data)} images, not {count}; give fewer --images")
    drawn = data[np.random.default_rng(seed).permutation(len(data))[:count]]
    return (torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255 - MEAN) / DEVIATION


def timed(function: Callable[[], T]) -> tuple[T, Seconds]:
    """What a function returns and how long it takes."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - processor)


def median(times: Sequence[Seconds]) -> Seconds:
    """Medians of both clocks."""
    return Seconds(*(statistics.median(clock) for clock in zip(*times, strict=True)))


def prepare(options: argparse.Namespace) -> Setting:
    """Build the network, calibrate, factor and draw the numbers kept."""
    images = load_images(options.data, options.images + HELD_OUT, options.seed)
    batches = images[: options.images].split(BATCH)
    model = build_model("cifar_vgg16", seed=options.seed)
    reestimate_norms_(model, batches[:10])
    model.eval()
    graph = ChannelGraph(model, images[:2])
    layers = repaired_layers(graph)
    sampling = RowSampling(positions=options.positions, seed=options.seed)
    sums, calibration = timed(lambda: calibrate(model, batches, layers=layers, sampling=sampling))
    modules = dict(model.named_modules())
    orders = {g.name: ranking(modules[g.name].weight.flatten(1).norm(dim=1)) for g in graph.groups}
    plan, factoring = timed(lambda: Reconstruction(graph, sums, orders, ridge=options.ridge))
    source = "noise" if options.data is None else "CIFAR-10"
    print(f"{source}: {options.images} images, {HELD_OUT} held out; seconds, paid once:")
    print(
        f"calibration {calibration.wall:.0f} ({calibration.processor:.0f} of the processor) with "
        f"at most {options.positions} positions, factoring {factoring.wall:.1f} "
        f"({factoring.processor:.1f})",
        flush=True,
    )
    low, high = SHARES
    drawn = torch.rand(len(graph.groups), generator=torch.Generator().manual_seed(options.seed))
    counts = {
        g.name: g.round_count(g.channels * (low + (high - low) * float(share)))
        for g, share in zip(graph.groups, drawn, strict=True)
    }
    held_out = images[options.images :]
    return Setting(
        graph=graph,
        images=images[: options.images],
        held_out=held_out,
        plan=plan,
        counts=counts,
        seed=options.seed,
    )


@torch.no_grad()
def walk(setting: Setting) -> Iterator[Layer]:
    """Every repaired layer in turn; only the activations that it reads are held."""
    model = setting.graph.model
    assert isinstance(model, CifarVgg)
    kept = setting.plan.kept(setting.counts)
    readers = {c.module: g.name for g in setting.graph.groups for c in g.consumers}
    features = [(f"features.{name}", module) for name, module in model.features.named_children()]
    x = (setting.images, setting.held_out)
    for name, module in [*features, ("", nn.Flatten()), ("classifier", model.classifier)]:
        if name in readers:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            outputs = kept.get(name, torch.arange(len(module.weight)))
            yield Layer(
                name=name,
                module=module,
                images=x[0],
                held_out=x[1],
                inputs=kept[readers[name]],
                outputs=outputs,
            )
        x = _in_batches(module, x[0]), _in_batches(module, x[1])


def _in_batches(module: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([module(part) for part in images.split(BATCH)])


def sampled_rows(layer: Layer, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that the original AMC would solve on, kept columns and kept outputs only, float32."""
    module = layer.module
    generator = torch.Generator().manual_seed(seed)
    weight = module.weight[layer.outputs].flatten(1)
    kernel = 1 if isinstance(module, nn.Linear) else weight.shape[1] // module.in_channels
    columns = (layer.inputs[:, None] * kernel + torch.arange(kernel)).flatten()
    rows, targets = [], []
    for batch in layer.images.split(BATCH):
        positions = None
        if isinstance(module, nn.Conv2d):
            # Kernels of size 3, stride 1 and padding 1 have as many outputs as inputs.
            positions = torch.randint(batch[0, 0].numel(), (POINTS,), generator=generator)
        read = layer_rows(module, batch, positions)[0]
        rows.append(read[:, columns])
        targets.append(read @ weight.mT)
    return torch.cat(rows), torch.cat(targets)


def refit(layer: Layer, seed: int) -> tuple[Tensor, int, Seconds]:
    """scikit-learn's weight, the number of rows and how long the fit takes."""
    rows, targets = sampled_rows(layer, seed)
    x, y = rows.numpy(), targets.numpy()
    fitted, taken = timed(lambda: LinearRegression(fit_intercept=False).fit(x, y))
    shape = (len(layer.outputs), len(layer.inputs), *layer.module.weight.shape[2:])
    return torch.from_numpy(fitted.coef_).reshape(shape), len(x), taken


def apply(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """A layer's outputs, without bias, from another weight."""
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, stride=module.stride, padding=module.padding)
    return F.linear(x, weight)


def residual(layer: Layer, weight: Tensor) -> tuple[float, float]:
    """``|XW - Y|^2`` and ``|Y|^2`` over the images held out."""
    lost = energy = 0.0
    for x in layer.held_out.split(BATCH):
        wanted = apply(layer.module, x, layer.module.weight[layer.outputs])
        given = apply(layer.module, x[:, layer.inputs], weight.float())
        lost += float((given - wanted).double().square().sum())
        energy += float(wanted.double().square().sum())
    return lost, energy


@torch.no_grad()
def compare(layer: Layer, setting: Setting) -> Line:
    """Both ways for one layer."""
    solve = setting.plan._layers[layer.name].weights
    kept = setting.plan.kept(setting.counts)
    times = [timed(lambda: solve(kept))[1] for _ in range(REPEATS)]
    refitted, rows, refit_time = refit(layer, setting.seed)
    planned = solve(kept)
    refit_lost, energy = residual(layer, refitted)
    return Line(
        name=layer.name,
        rows=rows,
        columns=planned[0].numel(),
        outputs=len(planned),
        refit_time=refit_time,
        plan_time=median(times),
        refit_lost=refit_lost,
        plan_lost=residual(layer, planned)[0],
        energy=energy,
    )


def show(line: Line) -> None:
    """Print one line of the table, in seconds of the processor."""
    print(
        f"{line.name:<13}{line.rows:>7}{line.columns:>9}{line.outputs:>9}"
        f"{line.refit_time.processor:>11.2f}{line.plan_time.processor:>10.5f}"
        f"{line.refit_time.processor / line.plan_time.processor:>8.0f}"
        f"{relative(line.refit_lost, line.energy):>13.4f}"
        f"{relative(line.plan_lost, line.energy):>11.4f}",
        flush=True,
    )


def relative(lost: float, energy: float) -> float:
    """``|XW - Y| / |Y|`` from their squares."""
    return math.sqrt(lost / energy)


def summarise(lines: list[Line], times: list[Seconds]) -> None:
    """Print the totals; the plan's are of all layers in one call."""
    refits = Seconds(*(sum(clock) for clock in zip(*(x.refit_time for x in lines), strict=True)))
    whole = median(times)
    for clock, refitted, planned in zip(("wall", "processor"), refits, whole, strict=True):
        label = f"all layers, {clock} clock"
        print(f"{label:<38}{refitted:>11.2f}{planned:>10.5f}{refitted / planned:>8.0f}")
    energy = sum(line.energy for line in lines)
    pooled = [
        relative(sum(line.refit_lost for line in lines), energy),
        relative(sum(line.plan_lost for line in lines), energy),
    ]
    means = [
        statistics.fmean(relative(line.refit_lost, line.energy) for line in lines),
        statistics.fmean(relative(line.plan_lost, line.energy) for line in lines),
    ]
    for label, (refitted, planned) in (("pooled", pooled), ("mean over layers", means)):
        print(f"{'residual, ' + label:<67}{refitted:>13.4f}{planned:>11.4f}")
    print(f"calls of the whole plan, processor: {', '.join(f'{t.processor:.3f}' for t in times)} s")
    worse = [line.name for line in lines if line.plan_lost > line.refit_lost]
    print(f"layers where the plan's residual is above scikit-learn's: {', '.join(worse) or 'none'}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder with cifar10_lossless.npz")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--positions", type=int, default=16, help="of a map, for the plan")
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        setting = prepare(options)
        print(
            f"{'layer':<13}{'rows':>7}{'columns':>9}{'outputs':>9}{'sklearn s':>11}{'plan s':>10}"
            f"{'ratio':>8}{'res sklearn':>13}{'res plan':>11}"
        )
        lines = []
        for layer in walk(setting):
            lines.append(compare(layer, setting))
            show(lines[-1])
        times = [timed(lambda: setting.plan.weights(setting.counts))[1] for _ in range(REPEATS)]
        summarise(lines, times)


if __name__ == "__main__":
    main()
