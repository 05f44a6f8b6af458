"""A table of measured latencies: what each layer takes at any numbers of channels."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from amc_env.files import write_text
from amc_env.latency.runtimes import Conditions
from amc_env.latency.surface import Surface
from amc_env.structure import Cost, LayerCost

# Steps that make up less of a network's time than this are noise.
_LEAST_STEP = 0.03


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(NamedTuple):
    """The time of a segment: the least of several runs, and the range of their middle half."""

    inputs: int
    outputs: int
    least_ms: float
    iqr_ms: float


class SegmentTimes(_Record):
    """The times of all layers that compute the same.

    Attributes:
        operations: What is computed in the whole network, with the shapes of the tensors.
        points: What was measured, in the order in which it was.
    """

    operations: str
    points: tuple[Measured, ...] = ()


class WholeNetwork(_Record):
    """A network that was timed as a whole, and the sum of the times of its segments."""

    sum_ms: float
    median_ms: float
    iqr_ms: float


class Offset(_Record):
    """A network whose groups have so many channels more than a multiple of 16."""

    channels: int
    median_ms: float
    iqr_ms: float


class LatencyTable(_Record):
    r"""What every layer of a network takes on one machine, and so does any pruned copy of it.

    .. math:: T = a + b \sum_l t_l(c^{in}_l, c^{out}_l)

    ``t`` is interpolated between the measured numbers of channels of layer ``l``; ``a`` and ``b``
    are fitted to a few networks that were timed as a whole, all of whose groups were cut alike.
    They stand for what runs before the first layer, and for what segments alone do not show. The
    sum over layers is that of Cai et al. 2019, ProxylessNAS: Direct Neural Architecture Search on
    Target Task and Hardware.

    Attributes:
        model: Name of the network.
        input_shape: Shape of one sample.
        conditions: Where and how it was measured.
        levels: Numbers of channels that were measured in each group.
        layers: The segments that each layer takes part in, as numbers in ``segments``; a layer
            that runs twice has two.
        segments: The times.
        networks: The networks that ``a`` and ``b`` are fitted to; none before all is measured.
        offsets: The networks that show which multiples are fast; none of a network without a group
            of 32 channels.
    """

    format: Literal[1] = 1
    model: str
    input_shape: tuple[int, ...]
    conditions: Conditions
    levels: int
    layers: dict[str, tuple[int, ...]]
    segments: tuple[SegmentTimes, ...]
    networks: tuple[WholeNetwork, ...] = ()
    offsets: tuple[Offset, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, anywhere: bool = False) -> "LatencyTable":
        """Read a finished table.

        Args:
            path: A file of ``python -m amc_env measure``.
            anywhere: Whether it may be of another machine, runtime version or number of threads.

        Raises:
            ValueError: The file is damaged or not finished, or was measured elsewhere.
            OSError: There is no such file.
        """
        table = cls.read(Path(path))
        if not table.networks:
            raise ValueError(
                f"{path} is not finished; give the command that began it again, and it goes on"
            )
        if not anywhere:
            table.check_here(path)
        return table

    @classmethod
    def read(cls, path: Path) -> "LatencyTable":
        """Read a table, finished or not, of whatever machine.

        Raises:
            ValueError: The file is damaged.
            OSError: There is no such file.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise ValueError(
                f"{path} is no table of latencies ({where}: {problem['msg']}); measure one with "
                "python -m amc_env measure"
            ) from error

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        write_text(path, self.model_dump_json() + "\n")

    def check_here(self, path: str | Path) -> None:
        """Refuse a table that was measured on another machine, or otherwise than this process runs.

        Raises:
            ValueError: It was.
        """
        if why := self._elsewhere():
            raise ValueError(
                f"{path} was measured elsewhere: {why}; measure it here, or say that it holds here "
                "too: budget.anywhere=true, or anywhere=True in Python"
            )

    def milliseconds(self, cost: Cost) -> float:
        """The predicted latency of a network of this cost.

        Raises:
            ValueError: The cost is that of another network.
        """
        offset, scale = self.fit
        return offset + scale * sum(self.by_layer(cost))

    def by_layer(self, cost: Cost) -> list[float]:
        """The milliseconds of every layer with what hangs on it, before ``a`` and ``b``.

        Raises:
            ValueError: The cost is that of another network.
        """
        return [self._layer_ms(layer) for layer in cost.layers]

    @cached_property
    def fit(self) -> tuple[float, float]:
        """The offset ``a`` in milliseconds and the factor ``b``."""
        return _fitted(self.networks)

    @cached_property
    def multiple(self) -> int:
        """The number whose multiples the machine favours; 1 where there are no such steps.

        Networks with 0 to 16 channels more than a multiple of 16 in every group are compared with
        the line between the first and the last of them. The favoured number is the smallest whose
        multiples all lie nearer to the line than to the network farthest above it.
        """
        excess = _above_line(self.offsets)
        greatest = max(excess.values(), default=0.0)
        if greatest < _LEAST_STEP:
            return 1
        return next(
            multiple
            for multiple in (2, 4, 8, 16)
            if all(e <= greatest / 2 for n, e in excess.items() if n % multiple == 0)
        )

    def _elsewhere(self) -> str:
        """What is not here as it was where the table was measured; nothing if all is."""
        mine = self.conditions
        try:
            here = Conditions.here(
                device=mine.device,
                runtime=mine.runtime,
                threads=torch.get_num_threads(),
                batch=mine.batch,
                clock=mine.clock,
            )
        except ValueError as error:
            return str(error)
        differences = mine.differences(here)
        return f"with {', '.join(differences)}" if differences else ""

    @cached_property
    def _surfaces(self) -> list[Surface]:
        return [
            Surface({(p.inputs, p.outputs): p.least_ms for p in s.points}) for s in self.segments
        ]

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], float]:
        # A search asks for the same few numbers of channels again and again.
        return {}

    def _layer_ms(self, layer: LayerCost) -> float:
        key = (layer.name, layer.inputs, layer.outputs)
        if key not in self._known:
            if layer.name not in self.layers:
                raise ValueError(
                    f"the table of latencies is of {self.model}, which has no layer "
                    f"{layer.name!r}; measure this network"
                )
            surfaces = [self._surfaces[number] for number in self.layers[layer.name]]
            self._known[key] = sum(s.at(layer.inputs, layer.outputs) for s in surfaces)
        return self._known[key]


def _fitted(networks: Sequence[WholeNetwork]) -> tuple[float, float]:
    """Offset and factor by least squares of the relative errors."""
    sums = np.array([network.sum_ms for network in networks])
    times = np.array([network.median_ms for network in networks])
    columns = np.stack([1.0 / times, sums / times], axis=1)
    (offset, scale), *_ = np.linalg.lstsq(columns, np.ones(len(times)), rcond=None)
    # Noise alone could tell that more work takes less time.
    if scale <= 0.0 or len(networks) < 2:
        return 0.0, float(np.median(times / sums))
    return float(offset), float(scale)


def _above_line(offsets: Sequence[Offset]) -> dict[int, float]:
    """How far each network lies above the line from the first to the last, by its channels.

    In times of the last network.
    """
    if not offsets:
        return {}
    first, last = offsets[0], offsets[-1]
    slope = (last.median_ms - first.median_ms) / (last.channels - first.channels)
    return {
        o.channels: (o.median_ms - first.median_ms - slope * (o.channels - first.channels))
        / last.median_ms
        for o in offsets
    }
