"""Does spatial aura entropy rank channels as the spatial disorder entropy that it stands for?

Musat and Andonie, "Accelerating Convolutional Neural Network Pruning via Spatial Aura Entropy",
2023, take the aura matrix entropy of equation 6 in place of the disorder entropy of equation 5,
which compares every pair of pixels: "a simplified version". Small maps allow both.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating
from amc_env.devices import with_float64
from amc_env.information.aura import ame_of_symbols, quantize
from amc_env.information.sde import sde
from amc_env.pipeline.screen import progress
from amc_env.rewards import NetworkLayers
from amc_env.studies.pictures import draw_points, thinned
from amc_env.studies.plan import Plan
from amc_env.studies.results import NOTHING
from amc_env.studies.works.work import (
    Bench,
    Found,
    Options,
    Table,
    Work,
    correlation,
    figures_of,
    kept,
)

_SDE, _AME, _TIMES = "sde", "ame", "times"

LEGEND = (
    "Means over the maps of a channel that vary, each in its own range of grey levels. The rank "
    "correlation is Spearman's over channels, with a bootstrap interval of 95 % (Efron and "
    f"Tibshirani, 1993). {NOTHING}: all values of a layer are the same, or none of its maps varies."
)


def compute(bench: Bench, options: Options) -> Found:
    """Both entropies of channels of every layer whose maps are small enough."""
    small = _small_layers(bench, options["most_pixels"])
    found = {}
    with progress("comparing pixels", total=len(small) * len(options["bins"])) as advance:
        for name, size in small.items():
            for bins in options["bins"]:
                what = f"layer {name} at {bins} bins"
                found[f"{name}, {size}, {bins}"] = kept(
                    bench, what, _measured, bench, name, bins, options
                )
                advance(name)
    return {"layers": found}


def table(plan: Plan) -> Table:
    """A row for every layer and number of grey levels of every run."""
    runs = list(figures_of(plan))
    header = [
        *runs[0][0].cell.values, "seed", "layer", "maps", "grey levels", "channels",
        "rank correlation of both", "mean disorder entropy", "mean aura entropy",
        "seconds of disorder entropy for one of aura entropy",
    ]  # fmt: skip
    lines = [
        [*run.cell.values.values(), str(run.cell.seed), *name.split(", "), *_cells(values)]
        for run, figures in runs
        for name, values in figures["layers"].items()
    ]
    return header, lines


def draw(plan: Plan) -> Iterator[Path]:
    """A picture of every run: a point for each channel."""
    for number, (_, figures) in enumerate(figures_of(plan)):
        yield draw_points(
            thinned({n: (x[_SDE], x[_AME]) for n, x in figures["layers"].items()}),
            plan.folder / f"entropies-{number}",
            labels=("spatial disorder entropy", "spatial aura entropy"),
        )


@torch.no_grad()
def _maps(bench: Bench, names: list[str], samples: int) -> dict[str, Tensor]:
    model = bench.env.graph.model
    with evaluating(model):
        return feature_maps(model, names, bench.env.data.calibration.first(samples))


def _small_layers(bench: Bench, most: int) -> dict[str, str]:
    """The convolutions whose maps have no more pixels, and more than one, with the maps' size."""
    shapes = _maps(bench, list(NetworkLayers.of(bench.env.graph).convolutions), 1)
    small = {
        name: f"{x.shape[2]} x {x.shape[3]}"
        for name, x in shapes.items()
        if 1 < x[0, 0].numel() <= most
    }
    if not small:
        raise ValueError(
            f"no convolution of the network has maps of 2 to {most} pixels; give a greater "
            "most_pixels, or smaller images"
        )
    return small


def _measured(bench: Bench, name: str, bins: int, options: Options) -> dict[str, Any]:
    """Both entropies of some channels, evenly spread, and how much longer the one takes."""
    maps = with_float64(_maps(bench, [name], options["samples"])[name])
    chosen = maps[:, :: -(-maps.shape[1] // options["channels"])].transpose(0, 1)
    varying = [[x for x in own if x.amin() < x.amax()] for own in chosen]
    alive = [own for own in varying if own]
    disorder, long = _timed(lambda x: sde(x, bins=bins), alive)
    aura, short = _timed(lambda x: _ame(x, bins), alive)
    return {_SDE: disorder, _AME: aura, _TIMES: long / short}


def _ame(image: Tensor, bins: int) -> float:
    return ame_of_symbols(quantize(image[None, None], bins=bins, scope="map")[0, 0], bins=bins)


def _timed(
    measure: Callable[[Tensor], float], channels: list[list[Tensor]]
) -> tuple[list[float], float]:
    """The mean of a measure over the maps of every channel, and how long all of them took."""
    started = time.perf_counter()
    means = [statistics.fmean(map(measure, maps)) for maps in channels]
    return means, time.perf_counter() - started


def _cells(values: dict[str, Any]) -> list[str]:
    if not values[_SDE]:
        return ["0", *[NOTHING] * 4]
    return [
        str(len(values[_SDE])),
        correlation(values[_SDE], values[_AME]),
        f"{statistics.fmean(values[_SDE]):.3f}",
        f"{statistics.fmean(values[_AME]):.3f}",
        f"{values[_TIMES]:.0f}",
    ]


DISORDER = Work(compute=compute, table=table, draw=draw, legend=LEGEND)
