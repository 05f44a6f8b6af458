"""Tables of latencies that are made up, so that what they predict is known."""

from collections.abc import Callable

import torch

from amc_env import ChannelGraph, Cost
from amc_env.latency import Conditions, LatencyTable
from amc_env.latency.plan import designs, offset_designs
from amc_env.latency.table import Measured, Offset, SegmentTimes, WholeNetwork

Law = Callable[[int, int], float]


def conditions(**changed: object) -> Conditions:
    """Those of this machine, but for some."""
    here = Conditions.here(device="cpu", runtime="torch", threads=torch.get_num_threads(), batch=1)
    return here.model_copy(update=changed)


def table_by(law: Law, graph: ChannelGraph, *, levels: int = 11) -> LatencyTable:
    """A table whose layers take what ``law`` says of their numbers of input and output channels."""
    seen: dict[str, set[tuple[int, int]]] = {layer.name: set() for layer in graph.layers}
    for kept in designs(graph, levels):
        for layer in graph.cost(kept).layers:
            seen[layer.name].add((layer.inputs, layer.outputs))
    segments = [
        SegmentTimes(
            operations=name,
            points=tuple(Measured(i, o, law(i, o), 0.0) for i, o in sorted(points)),
        )
        for name, points in seen.items()
    ]
    return LatencyTable(
        model="made up",
        input_shape=tuple(graph.inputs[0].shape[1:]),
        conditions=conditions(),
        levels=levels,
        layers={name: (number,) for number, name in enumerate(seen)},
        segments=tuple(segments),
        networks=(
            WholeNetwork(sum_ms=2.0, median_ms=2.0, iqr_ms=0.0),
            WholeNetwork(sum_ms=1.0, median_ms=1.0, iqr_ms=0.0),
        ),
        offsets=tuple(
            Offset(channels=channels, median_ms=_total(law, graph.cost(kept)), iqr_ms=0.0)
            for channels, kept in offset_designs(graph).items()
        ),
    )


def by_law(table: LatencyTable, law: Law) -> LatencyTable:
    """A table that was measured, with the times of ``law`` in place of what the clock told."""
    segments = tuple(
        segment.model_copy(
            update={"points": tuple(Measured(i, o, law(i, o), 0.0) for i, o, *_ in segment.points)}
        )
        for segment in table.segments
    )
    networks = tuple(WholeNetwork(sum_ms=t, median_ms=t, iqr_ms=0.0) for t in (1.0, 2.0))
    return table.model_copy(update={"segments": segments, "networks": networks})


def _total(law: Law, cost: Cost) -> float:
    return sum(law(layer.inputs, layer.outputs) for layer in cost.layers)


def in_eights(inputs: int, outputs: int) -> float:
    """A machine that computes eight output channels at once."""
    return 1e-3 * inputs * 8 * -(-outputs // 8)


def uneven(inputs: int, outputs: int) -> float:
    """A machine that is fast at multiples of four alone: one channel less can take longer."""
    return 1e-3 * (inputs * outputs + (0 if outputs % 4 == 0 else 40))
