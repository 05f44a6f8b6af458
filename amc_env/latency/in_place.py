"""The times of a network's segments while the whole network runs."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.latency.clock import CLOCKS, Clock, Timing, settle_allocator, threads_of_torch
from amc_env.latency.segments import layers_by_tensor

_FEWEST_TURNS = 9
_MOST_TURNS = 200


class SegmentTime(NamedTuple):
    """The least of several runs, and the range of the middle half of them, in milliseconds."""

    layer: str
    least_ms: float
    iqr_ms: float

    def times(self) -> tuple[float, float]:
        """The two times."""
        return self.least_ms, self.iqr_ms


class LayerLatency(NamedTuple):
    """What a layer with what hangs on it takes in two networks, in milliseconds."""

    layer: str
    before_ms: float
    after_ms: float


def layer_latencies(
    networks: tuple[nn.Module, nn.Module],
    sample: Tensor,
    layers: Mapping[str, str],
    *,
    seconds: float,
) -> list[LayerLatency]:
    """The time of every layer in the original and in the pruned network, on one thread.

    Args:
        networks: The original and the pruned network, in evaluation mode, on the CPU.
        sample: What they are run on.
        layers: Names of layers by the names of their weights, which are the same in both.
        seconds: How long the runs of each network may take, but for the fewest.

    Raises:
        ValueError: A network runs other layers each time.
    """
    found: list[dict[str, float]] = []
    with threads_of_torch(1):
        for network in networks:
            sums = dict.fromkeys(layers.values(), 0.0)
            for each in times_in_place(network, sample, layers, clock="wall", seconds=seconds):
                sums[each.layer] += each.least_ms
            found.append(sums)
    before, after = found
    return [LayerLatency(name, before[name], after[name]) for name in before]


@torch.inference_mode()
def times_in_place(
    network: nn.Module,
    inputs: Tensor,
    layers: Mapping[str, str],
    *,
    clock: Clock,
    seconds: float,
) -> list[SegmentTime]:
    """The time from the beginning of each layer to that of the next, in the order of execution.

    Of a layer that runs alone again and again, weights, inputs and memory for the outputs stay in
    the cache, which in a network are gone by the time they are needed. So the clock is read while
    the whole network runs.

    Args:
        network: The network, in evaluation mode, on the CPU.
        inputs: A batch.
        layers: Names of layers by the names of their weights.
        clock: The clock that is read.
        seconds: How long all runs may take, but for the fewest.
    """
    marks = _Marks(layers_by_tensor(network, layers), CLOCKS[clock])
    turns: list[list[float]] = []
    end = time.perf_counter() + seconds
    settle_allocator()
    # The first turn is not counted, because it allocates memory and picks kernels.
    marks.run(network, inputs)
    while len(turns) < _FEWEST_TURNS or (time.perf_counter() < end and len(turns) < _MOST_TURNS):
        turns.append(marks.run(network, inputs))
    return [
        SegmentTime(layer, min(mine), Timing.of(mine).iqr_ms)
        for layer, mine in zip(marks.names, zip(*turns, strict=True), strict=True)
    ]


class _Marks(TorchFunctionMode):
    """Reads the clock at the beginning of every layer."""

    def __init__(self, layers: Mapping[int, str], now: Callable[[], float]) -> None:
        super().__init__()
        self.names: list[str] = []
        self._times: list[float] = []
        self._layers = layers
        self._now = now

    def run(self, network: nn.Module, inputs: Tensor) -> list[float]:
        """Run a network once: the milliseconds from each layer to the next or the end."""
        self.names, self._times = [], []
        with self:
            network(inputs)
        self._times.append(self._now())
        return [
            1e3 * (after - before)
            for before, after in zip(self._times, self._times[1:], strict=False)
        ]

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        name = self._layer((*args, *given.values()))
        if name is not None:
            self.names.append(name)
            self._times.append(self._now())
        return func(*args, **given)

    def _layer(self, values: Iterable[Any]) -> str | None:
        # Weights are arguments by themselves, never parts of lists.
        return next((self._layers[id(v)] for v in values if id(v) in self._layers), None)
