"""Is the entropy of a filter that of its feature maps, and what does their rank tell?

Tang, Hu and Shi, "Filter Pruning based on Information Capacity and Independence", 2023: figure 2
shows the mean rank of a channel's maps beside their entropy, figure 3 the entropy of maps against
that of the filter that makes them.
"""

import statistics
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path

import torch
from torch import Tensor, nn

from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating
from amc_env.criteria.maps import hrank
from amc_env.devices import with_float64
from amc_env.information.filters import filter_entropy
from amc_env.information.renyi import renyi_channel_entropy
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
from amc_env.trust import rank_correlation

_FILTER, _MAP, _RANK = "filter", "map", "rank"

LEGEND = (
    "For every convolution, over its channels: Spearman's rank correlation with bootstrap "
    "intervals of 95 % (Efron and Tibshirani, 1993); how many channels there are for each "
    "different value of the rank; and the standard deviation relative to the mean. Entropies of "
    f"maps are Rényi's of order 1.01. {NOTHING}: all values of a layer are the same."
)


def compute(bench: Bench, options: Options) -> Found:
    """The entropy of every filter, and the entropy and the mean rank of its maps, by layer."""
    names = _layers(bench)
    found = {}
    with progress("reading maps", total=len(names)) as advance:
        for name in names:
            found[name] = kept(bench, f"layer {name}", _measured, bench, name, options["samples"])
            advance(name)
    return {"layers": found}


def table(plan: Plan) -> Table:
    """A row for every layer of every run, and one with the median of its layers."""
    runs = list(figures_of(plan))
    axes = list(runs[0][0].cell.values)
    header = [
        *axes, "seed", "layer", "channels", "filter and map entropy", "rank and map entropy",
        "channels for each rank", "deviation of rank", "deviation of map entropy",
    ]  # fmt: skip
    lines = [
        [*run.cell.values.values(), str(run.cell.seed), *cells]
        for run, figures in runs
        for cells in _lines(figures["layers"])
    ]
    return header, lines


def draw(plan: Plan) -> Iterator[Path]:
    """Figure 3, and figure 2 for the layer with the most channels."""
    for number, (_, figures) in enumerate(figures_of(plan)):
        layers = figures["layers"]
        groups = {name: (values[_FILTER], values[_MAP]) for name, values in layers.items()}
        yield draw_points(
            thinned(groups),
            plan.folder / f"entropies-{number}",
            labels=("entropy of the filter in bits", "entropy of its maps in bits"),
        )
        widest = max(layers, key=lambda name: len(layers[name][_MAP]))
        relative = {
            title: (list(range(len(layers[widest][key]))), _relative(layers[widest][key]))
            for title, key in (("mean rank of the maps", _RANK), ("entropy of the maps", _MAP))
        }
        yield draw_points(
            relative,
            plan.folder / f"ranks-{number}",
            labels=(f"channel of {widest}", "relative to the mean"),
        )


def _layers(bench: Bench) -> list[str]:
    """Convolutions with several input channels: a filter of one kernel has no entropy."""
    model = bench.env.graph.model
    return [
        name
        for name in NetworkLayers.of(bench.env.graph).convolutions
        if _weight(model, name).shape[1] > 1
    ]


def _weight(model: nn.Module, name: str) -> Tensor:
    weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
    return weight.detach()


@torch.no_grad()
def _measured(bench: Bench, name: str, samples: int) -> dict[str, list[float]]:
    model, batch = bench.env.graph.model, bench.env.data.calibration.first(samples)
    with evaluating(model):
        maps = with_float64(feature_maps(model, [name], batch)[name])
    measured = {
        _FILTER: filter_entropy(with_float64(_weight(model, name))),
        _MAP: renyi_channel_entropy(maps),
        _RANK: hrank(maps),
    }
    return {key: values.tolist() for key, values in measured.items()}


def _lines(layers: dict[str, dict[str, list[float]]]) -> Iterator[list[str]]:
    for name, values in layers.items():
        ranks = values[_RANK]
        yield [
            name,
            str(len(ranks)),
            correlation(values[_FILTER], values[_MAP]),
            correlation(ranks, values[_MAP]),
            f"{len(ranks) / len(set(ranks)):.1f}",
            _deviation(ranks),
            _deviation(values[_MAP]),
        ]
    yield ["median of all", *_medians(list(layers.values()))]


def _medians(layers: Sequence[dict[str, list[float]]]) -> Iterator[str]:
    yield f"{statistics.median(len(values[_MAP]) for values in layers):.0f}"
    for one, other in ((_FILTER, _MAP), (_RANK, _MAP)):
        found = [rank_correlation(values[one], values[other]) for values in layers]
        known = [value for value in found if not isnan(value)]
        yield f"{statistics.median(known):+.2f}" if known else NOTHING
    shares = [len(values[_RANK]) / len(set(values[_RANK])) for values in layers]
    yield f"{statistics.median(shares):.1f}"
    for key in (_RANK, _MAP):
        yield f"{statistics.median(_relative_deviation(values[key]) for values in layers):.3f}"


def _relative_deviation(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return statistics.pstdev(values) / mean if mean else 0.0


def _deviation(values: Sequence[float]) -> str:
    return f"{_relative_deviation(values):.3f}"


def _relative(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values) or 1.0
    return [value / mean for value in values]


MAP_ENTROPY = Work(compute=compute, table=table, draw=draw, legend=LEGEND)
