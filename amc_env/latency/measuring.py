"""Measures the layers of a network at many numbers of channels, and writes a table of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.latency.clock import CLOCKS, Timing, threads_of_torch, timings
from amc_env.latency.in_place import SegmentTime, times_in_place
from amc_env.latency.plan import check_levels, designs, mixed_designs, offset_designs
from amc_env.latency.runtimes import Conditions, runner
from amc_env.latency.segments import Segment, record_segments
from amc_env.latency.table import LatencyTable, Measured, Offset, SegmentTimes, WholeNetwork
from amc_env.models import NamedModel
from amc_env.structure import ChannelGraph, Cost

# The time for all the networks that are timed as a whole, in times of one point.
_WHOLE_POINTS = 600
# Seconds of one block of runs, and the fewest blocks of which the least is taken.
_BLOCK_SECONDS = 0.002
_FEWEST_BLOCKS = 5

Advance = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How much is measured.

    Attributes:
        levels: Numbers of channels in each group: 3, 5, 7 or 11.
        seconds: About the time for one point.

    Raises:
        ValueError: There is no design for so many levels, or the time is not positive.
    """

    levels: int = 7
    seconds: float = 0.01

    def __post_init__(self) -> None:
        check_levels(self.levels)
        if not self.seconds > 0.0:
            raise ValueError(f"seconds is {self.seconds}; give a positive number")


def measure(
    network: NamedModel,
    out: Path,
    *,
    conditions: Conditions,
    settings: MeasureSettings | None = None,
    advance: Advance = lambda _done, _total: None,
) -> LatencyTable:
    """Time every layer of a network, and write the table; an interrupted measurement goes on.

    The table is written after every point. If it is there already, what it holds is not measured
    again. Equal layers share their points. The network is copied, not modified.

    Args:
        network: The network, the shape of one sample, and what the table calls it.
        out: File of the table.
        conditions: What runs the network, as ``Conditions.here`` gives it.
        settings: How much is measured.
        advance: Is called with the number of points that are measured, and of all.

    Raises:
        ValueError: The network cannot be taken apart or run, or the file holds another measurement.
        OSError: The file cannot be written.
    """
    if network.input_shape is None:
        raise ValueError(f"give the shape of one sample of {network.name}, such as (3, 224, 224)")
    settings = settings or MeasureSettings()
    graph = ChannelGraph(network.model.eval(), torch.zeros(2, *network.input_shape))
    batch = torch.randn(
        conditions.batch, *network.input_shape, generator=torch.Generator().manual_seed(0)
    ).to(conditions.device)
    work = _Work(graph=graph, batch=batch, conditions=conditions, settings=settings)
    with threads_of_torch(conditions.threads):
        table = _continued(work.begun(network.name), out)
        if table.networks:
            return table
        work.measure_(table, lambda now: now.save(out), advance)
        finished = work.table(table)
        whole = finished.model_copy(update=work.whole_networks(finished))
    whole.save(out)
    return whole


@dataclass(kw_only=True, eq=False)
class _Work:
    """What a measurement knows of its network.

    Attributes:
        graph: The structure of the whole network.
        batch: What the networks are run on.
        conditions: What runs them.
        settings: How much is measured.
        points: What is measured of every segment, by the numbers of channels.
    """

    graph: ChannelGraph
    batch: Tensor
    conditions: Conditions
    settings: MeasureSettings
    points: list[dict[tuple[int, int], Measured]] = field(default_factory=list)

    def begun(self, name: str) -> LatencyTable:
        """The table before anything is measured: which segments there are."""
        layers: dict[str, list[int]] = {layer.name: [] for layer in self.graph.layers}
        known: dict[str, int] = {}

        def note(segment: Segment) -> None:
            number = known.setdefault(segment.signature, len(known))
            layers[segment.layer].append(number)

        self._record({}, note)
        return LatencyTable(
            model=name,
            input_shape=tuple(self.batch.shape[1:]),
            conditions=self.conditions,
            levels=self.settings.levels,
            layers={layer: tuple(numbers) for layer, numbers in layers.items()},
            segments=tuple(SegmentTimes(operations=signature) for signature in known),
        )

    def measure_(
        self, table: LatencyTable, save: Callable[[LatencyTable], None], advance: Advance
    ) -> None:
        """Measure all points that the table does not hold yet."""
        self.points = [{(p.inputs, p.outputs): p for p in s.points} for s in table.segments]
        wanted = [
            (kept, set(_wanted(table, self.graph.cost(kept))))
            for kept in designs(self.graph, self.settings.levels)
        ]
        total = len(set[tuple[int, int, int]]().union(*(points for _, points in wanted)))
        for kept, points in wanted:
            if all(point[1:] in self.points[point[0]] for point in points):
                continue

            def tell() -> None:
                save(self.table(table))
                advance(sum(map(len, self.points)), total)

            self._measure_network_(table, kept, tell)

    def table(self, begun: LatencyTable) -> LatencyTable:
        """The table with what is measured until now."""
        segments = tuple(
            segment.model_copy(update={"points": tuple(points.values())})
            for segment, points in zip(begun.segments, self.points, strict=True)
        )
        return begun.model_copy(update={"segments": segments})

    def whole_networks(self, table: LatencyTable) -> dict[str, Any]:
        """The fields of the table with the networks that are timed as a whole, in turns."""
        mixed = mixed_designs(self.graph)
        offsets = offset_designs(self.graph)
        mine = self.conditions
        runs = [
            runner(self._network(kept), [self.batch], runtime=mine.runtime, threads=mine.threads)
            for kept in (*mixed, *offsets.values())
        ]
        seconds = _WHOLE_POINTS * self.settings.seconds
        found = timings(
            runs, seconds=seconds, device=self.batch.device, clock=mine.clock, at_least=9
        )
        sums = [sum(table.by_layer(self.graph.cost(kept))) for kept in mixed]
        times = [timing._asdict() for timing in found]
        return {
            "networks": tuple(
                WholeNetwork(sum_ms=total, **time)
                for total, time in zip(sums, times[: len(mixed)], strict=True)
            ),
            "offsets": tuple(
                Offset(channels=channels, **time)
                for channels, time in zip(offsets, times[len(mixed) :], strict=True)
            ),
        }

    def _measure_network_(
        self, table: LatencyTable, kept: Mapping[str, int], tell: Callable[[], None]
    ) -> None:
        """Measure the segments of one network that are not known at its numbers of channels."""
        sizes = {layer.name: layer for layer in self.graph.cost(kept).layers}
        turns = {layer: iter(numbers) for layer, numbers in table.layers.items()}

        def note(layer: str, time: Callable[[], tuple[float, float]]) -> None:
            points, size = self.points[next(turns[layer])], sizes[layer]
            if (size.inputs, size.outputs) not in points:
                measured = Measured(size.inputs, size.outputs, *time())
                points[size.inputs, size.outputs] = measured
                tell()

        # What runs on another device, or compiled, has no beginnings of layers to read a clock at.
        if self.conditions.runtime == "torch" and self.batch.device.type == "cpu":
            for found in self._times_in_place(kept):
                note(found.layer, found.times)
        else:
            self._record(kept, lambda segment: note(segment.layer, lambda: self._time(segment)))

    def _times_in_place(self, kept: Mapping[str, int]) -> list[SegmentTime]:
        return times_in_place(
            self._network(kept),
            self.batch,
            self._weights,
            clock=self.conditions.clock,
            seconds=self.settings.seconds * len(self.graph.layers),
        )

    def _time(self, segment: Segment) -> tuple[float, float]:
        """The least of several blocks of runs, and the range of the middle half of them, in ms."""
        # Importing it looks for a compiler, and warns where there is CUDA but no card.
        from torch.utils.benchmark import Timer

        run = runner(
            segment,
            segment.inputs,
            runtime=self.conditions.runtime,
            threads=self.conditions.threads,
        )
        options: dict[str, Any] = {"globals": {"run": run}, "num_threads": self.conditions.threads}
        if self.conditions.clock != "wall":
            options["timer"] = CLOCKS[self.conditions.clock]
        # PyTorch's timer warms up before every block, and waits for the device at its end.
        timer = Timer("run()", **options)
        once = timer.timeit(1).mean
        number = max(1, round(_BLOCK_SECONDS / once))
        blocks = min(max(round(self.settings.seconds / (number * once)), _FEWEST_BLOCKS), 100)
        times = [1e3 * timer.timeit(number).mean for _ in range(blocks)]
        # Whatever else the machine does only ever adds to a time.
        return min(times), Timing.of(times).iqr_ms

    def _record(self, kept: Mapping[str, int], listener: Callable[[Segment], None]) -> None:
        record_segments(self._network(kept), self.batch, self._weights, listener)

    @property
    def _weights(self) -> dict[str, str]:
        """Names of layers by the names of their weights."""
        return {layer.weight: layer.name for layer in self.graph.layers if layer.weight}

    def _network(self, kept: Mapping[str, int]) -> nn.Module:
        compact = self.graph.compact({name: range(count) for name, count in kept.items()})
        return compact.to(self.batch.device)


def _continued(begun: LatencyTable, out: Path) -> LatencyTable:
    """The table with the points that its file holds already.

    Raises:
        ValueError: The file holds another measurement.
    """
    if not out.exists():
        return begun
    found = LatencyTable.read(out)
    for part in ("model", "input_shape", "conditions", "levels", "layers"):
        before, now = getattr(found, part), getattr(begun, part)
        if before != now:
            raise ValueError(
                f"{out} holds a measurement with other {part} ({before}); it cannot go on with "
                f"{now}: give another --out, or remove it"
            )
    if [s.operations for s in found.segments] != [s.operations for s in begun.segments]:
        raise ValueError(f"{out} is of another network; give another --out, or remove it")
    return found


def _wanted(table: LatencyTable, cost: Cost) -> Iterator[tuple[int, int, int]]:
    """The points that a network of this cost shows: segment, inputs and outputs."""
    for layer in cost.layers:
        for number in table.layers[layer.name]:
            yield number, layer.inputs, layer.outputs
