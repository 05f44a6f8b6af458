"""Which layers a sequential repair solves, and which of their rows count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import listening
from amc_env.calibration.rows import (
    RowSampling,
    can_be_repaired,
    count_positions,
    draw_positions,
)
from amc_env.repair.layer_plan import output_sides, staying
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A layer to solve.

    Attributes:
        name: Its name in both networks.
        layer: The layer in the compact network.
        outputs: Indices of the outputs of the original layer that stay.
        positions: For every batch the positions of the map that count; None for all.
        numbers: How many numbers of targets one sample has.
    """

    name: str
    layer: nn.Module
    outputs: Tensor
    positions: tuple[Tensor | None, ...]
    numbers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What a run of one batch through the original network shows.

    Attributes:
        calls: Name of every call of a layer, in execution order, and the positions of its output.
        rows: How many rows of outputs each layer gives for one sample.
        largest: How many numbers the largest map has for one sample.
    """

    calls: tuple[tuple[str, int | None], ...]
    rows: Mapping[str, int]
    largest: int

    def drawn_positions(
        self, sampling: RowSampling, *, batches: int
    ) -> list[dict[str, Tensor | None]]:
        """For every batch the positions that count, by layer."""
        # Drawn for all layers and batches at once: layers are solved in an order of their own, and
        # which positions a seed draws must not depend on how many samples fit into memory.
        generator = torch.Generator().manual_seed(sampling.seed)
        return [
            {
                name: draw_positions(total, sampling.positions, generator)
                for name, total in self.calls
            }
            for _ in range(batches)
        ]

    def jobs(
        self,
        compact: nn.Module,
        graph: ChannelGraph,
        kept: Mapping[str, Tensor],
        draws: Sequence[Mapping[str, Tensor | None]],
    ) -> list[Job]:
        """The layers that run once for a sample, in execution order."""
        names = [name for name, _ in self.calls]
        jobs = []
        for name in names:
            # The second call of a layer reads what the first has made with the old weights, so that
            # no single least squares problem has both as its rows.
            if names.count(name) > 1:
                continue
            # A depthwise convolution follows its group and loses the same outputs.
            sides = output_sides(graph, name, with_followers=True)
            size = len(graph.model.get_submodule(name).get_parameter("weight"))
            outputs = staying(size, sides, kept).nonzero().flatten()
            positions = tuple(drawn[name] for drawn in draws)
            rows = self.rows[name] if positions[0] is None else len(positions[0])
            job = Job(
                name=name,
                layer=compact.get_submodule(name),
                outputs=outputs,
                positions=positions,
                numbers=rows * len(outputs),
            )
            jobs.append(job)
        return jobs


def look_at(graph: ChannelGraph, batch: Tensor) -> Survey:
    """Run one batch through the original network and note calls and sizes."""
    calls: list[tuple[str, int | None]] = []
    rows: dict[str, int] = {}
    sizes = [0]

    def before(name: str, layer: nn.Module, x: Tensor) -> None:
        calls.append((name, count_positions(layer, x)))
        sizes.append(x.numel())

    def after(name: str, layer: nn.Module, output: Tensor) -> None:
        channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
        rows[name] = output.numel() // channels // len(batch)
        sizes.append(output.numel())

    with listening(_layers_to_solve(graph), before=before, after=after):
        graph.model(batch)
    return Survey(calls=tuple(calls), rows=rows, largest=max(sizes) // len(batch))


def _layers_to_solve(graph: ChannelGraph) -> dict[str, nn.Module]:
    """Repairable layers of the original network behind the first that makes a group."""
    modules = dict(graph.model.named_modules())
    names = [layer.name for layer in graph.cost().layers]
    makers = {p.module for group in graph.groups for p in group.producers}
    first = next((number for number, name in enumerate(names) if name in makers), len(names))
    return {
        name: modules[name] for name in names[first + 1 :] if can_be_repaired(modules.get(name))
    }
