"""What one run of the original network shows: layers to solve, rows that count, norms behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, count, first
from amc_env.calibration.hooks import listening
from amc_env.calibration.rows import (
    RowSampling,
    can_be_repaired,
    count_positions,
    draw_positions,
    pixels_under,
)
from amc_env.folding import folds_of
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Which rows of a layer count, in one batch.

    Attributes:
        positions: Positions of the output map; None for all.
        table: Pixels of the input map under the kernel, for every position of the output map,
            (positions, kernel); None where the layer has no kernel.
    """

    positions: Tensor | None
    table: Tensor | None

    @property
    def pixels(self) -> Tensor | None:
        """Pixels of the input map under the kernel at the positions that count."""
        if self.table is None or self.positions is None:
            return self.table
        return self.table[self.positions]


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What a run of one batch through the original network shows.

    Attributes:
        calls: Name of every call of a layer, in execution order, and the positions of its output.
        layers: Of each layer the module, and one sample of its inputs.
        rows: How many rows of outputs each layer gives for one sample.
        means: Name of the mean that a batch norm takes off a layer's outputs, by the layer's.
        largest: How many numbers the largest map has for one sample.
    """

    calls: tuple[tuple[str, int | None], ...]
    layers: Mapping[str, tuple[nn.Module, Tensor]]
    rows: Mapping[str, int]
    means: Mapping[str, str]
    largest: int

    def solvable(self) -> list[str]:
        """Names of the layers that run once for a sample, in execution order."""
        # The second call of a layer reads what the first has made with the old weights, so that no
        # single least squares problem has both as its rows.
        names = [name for name, _ in self.calls]
        return [name for name in names if names.count(name) == 1]

    def places(self, sampling: RowSampling, *, batches: int) -> list[dict[str, Places]]:
        """For every batch the rows that count, by layer."""
        # Drawn for all layers and batches at once: layers are solved in an order of their own, and
        # which positions a seed draws must not depend on how many samples fit into memory.
        generator = torch.Generator().manual_seed(sampling.seed)
        tables = {name: pixels_under(layer, x, None) for name, (layer, x) in self.layers.items()}
        return [
            {
                name: Places(
                    positions=draw_positions(total, sampling.positions, generator),
                    table=tables[name],
                )
                for name, total in self.calls
            }
            for _ in range(batches)
        ]

    def numbers(self, name: str, places: Places) -> int:
        """How many numbers the outputs of a layer are, for one sample, in the rows that count."""
        layer, _ = self.layers[name]
        rows = self.rows[name] if places.positions is None else len(places.positions)
        return rows * len(layer.get_parameter("weight"))


def look_at(graph: ChannelGraph, batch: Batch) -> Survey:
    """Run one batch through the original network and note calls and sizes."""
    calls: list[tuple[str, int | None]] = []
    layers: dict[str, tuple[nn.Module, Tensor]] = {}
    rows: dict[str, int] = {}
    sizes = [0]

    def before(name: str, layer: nn.Module, x: Tensor) -> None:
        calls.append((name, count_positions(layer, x)))
        layers[name] = layer, x[:1].clone()
        sizes.append(x.numel())

    def after(name: str, layer: nn.Module, output: Tensor) -> None:
        channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
        rows[name] = output.numel() // channels // count(batch)
        sizes.append(output.numel())

    with listening(_layers_to_solve(graph), before=before, after=after):
        call(graph.model, batch)
    # A norm that folds into a convolution is all that reads its output.
    folds = folds_of(graph.model, first(batch, 2))
    return Survey(
        calls=tuple(calls),
        layers=layers,
        rows=rows,
        means={fold.convolution: f"{fold.norm}.running_mean" for fold in folds},
        largest=max(sizes) // count(batch),
    )


def _layers_to_solve(graph: ChannelGraph) -> dict[str, nn.Module]:
    """Repairable layers of the original network behind the first that makes a group."""
    modules = dict(graph.model.named_modules())
    names = [layer.name for layer in graph.cost().layers]
    makers = {p.module for group in graph.groups for p in group.producers}
    first = next((number for number, name in enumerate(names) if name in makers), len(names))
    return {
        name: modules[name] for name in names[first + 1 :] if can_be_repaired(modules.get(name))
    }
