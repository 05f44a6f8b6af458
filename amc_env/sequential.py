"""Repair on the inputs that the pruned network really produces, layer by layer.

A plan (``amc_env.reconstruction``) solves every layer on the original network's activations, so
errors add up from layer to layer. Here each layer is solved again on what its pruned predecessors,
already repaired, give it, with the original network's outputs as the target. It needs a partial run
for every layer: for a policy that is realised for good, not for every episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.least_squares import NormalEquations
from amc_env.reconstruction import DEFAULT_RIDGE
from amc_env.running import evaluating
from amc_env.shortcuts import shortcut
from amc_env.structure import ChannelGraph
from amc_env.unfolding import RowSampling, can_be_repaired, draw_positions, layer_rows


@dataclass(frozen=True, kw_only=True)
class SequentialSettings:
    """How layers are solved one after the other.

    Attributes:
        sampling: Which rows of a convolution's inputs count.
        ridge: Pull towards the weights that the network has, relative to the mean square of an
            input.
        sums: Whether a layer whose output is added to a shortcut, as at the end of a residual
            block, is solved for the original *sum*: it then makes up for what the shortcut lost.
    """

    sampling: RowSampling = field(default_factory=RowSampling)
    ridge: float = DEFAULT_RIDGE
    sums: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """What a layer of the original network gave on one batch, and where on the map."""

    rows: Tensor
    positions: Tensor | None


class _Reached(Exception):  # noqa: N818 (it ends a run early and is no error)
    """Raised when a run has come to the layer it is for."""


def repair_sequentially_(
    compact: nn.Module,
    graph: ChannelGraph,
    kept: dict[str, Tensor],
    batches: Sequence[Tensor],
    *,
    settings: SequentialSettings | None = None,
) -> None:
    """Solve the layers of ``compact`` again, in execution order, on their own inputs.

    ``compact`` is ``graph.compact(kept)``, plain or with a plan applied; the ridge pulls towards
    the weights that it has. The samples in ``batches`` are run through both networks.

    Raises:
        ValueError: There is no sample.
    """
    if not batches:
        raise ValueError("there are no calibration samples; give at least one batch")
    settings = settings or SequentialSettings()
    layers = _layers_to_solve(graph)
    targets = _targets(graph.model, layers, batches, settings.sampling)
    modules = dict(compact.named_modules())
    with evaluating(compact), evaluating(graph.model):
        for name in layers:
            wanted = targets.pop(name)
            outputs = _kept_outputs(graph, name, kept, wanted[0].rows.shape[1])
            cut = [replace(target, rows=target.rows[:, outputs]) for target in wanted]
            if settings.sums:
                pair = _Pair(original=graph.model, compact=compact, layer=name, outputs=outputs)
                cut = [_of_sum(pair, x, y) for x, y in zip(batches, cut, strict=True)]
            _solve_(compact, modules[name], batches, cut, settings.ridge)


def _layers_to_solve(graph: ChannelGraph) -> list[str]:
    """Repairable layers in execution order, behind the first that makes a group."""
    modules = dict(graph.model.named_modules())
    names = [layer.name for layer in graph.cost().layers]
    first = min(names.index(p.module) for g in graph.groups for p in g.producers)
    return [name for name in names[first + 1 :] if can_be_repaired(modules.get(name))]


def _targets(
    model: nn.Module, layers: list[str], batches: Sequence[Tensor], sampling: RowSampling
) -> dict[str, list[_Target]]:
    generator = torch.Generator().manual_seed(sampling.seed)
    found: dict[str, list[_Target]] = {name: [] for name in layers}

    def listener(name: str) -> Any:
        def listen(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            positions = draw_positions(layer, args[0], sampling.positions, generator)
            found[name].append(
                _Target(rows=_output_rows(layer, out, positions), positions=positions)
            )

        return listen

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(listener(name)) for name in layers]
    try:
        with evaluating(model):
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _output_rows(layer: nn.Module, out: Tensor, positions: Tensor | None) -> Tensor:
    """Outputs less the bias: (rows, outputs), in the order of ``layer_rows``."""
    rows = out.reshape(-1, out.shape[-1]) if isinstance(layer, nn.Linear) else _rows(out, positions)
    bias = layer.bias
    return rows - bias if isinstance(bias, Tensor) else rows.clone()


def _rows(maps: Tensor, positions: Tensor | None) -> Tensor:
    """Maps (samples, channels, ...) at some positions as rows (sample and position, channels)."""
    pixels = maps.flatten(2)
    pixels = pixels if positions is None else pixels[..., positions.to(maps.device)]
    return pixels.mT.reshape(-1, maps.shape[1])


def _kept_outputs(graph: ChannelGraph, name: str, kept: dict[str, Tensor], size: int) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)
    for group in graph.groups:
        # A depthwise convolution follows its group and loses the same outputs.
        for member in (*group.producers, *group.followers):
            if member.module == name and group.name in kept:
                stays[member.positions.flatten()] = False
                stays[member.positions[kept[group.name]].flatten()] = True
    return stays.nonzero().flatten()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A layer in the original and in the compact network, and which outputs it keeps."""

    original: nn.Module
    compact: nn.Module
    layer: str
    outputs: Tensor


def _of_sum(pair: _Pair, batch: Tensor, target: _Target) -> _Target:
    """The target that gives back the original sum, where the output goes into one."""
    whole = shortcut(pair.original, pair.layer, batch)
    left = shortcut(pair.compact, pair.layer, batch)
    if whole is None or left is None:
        return target
    # A channel that the norm all but silences cannot make up for anything.
    heard = left.scale.abs() > 1e-3 * left.scale.abs().max()
    scale = torch.where(heard, left.scale, float("inf"))
    lost = whole.other[:, pair.outputs.to(whole.other.device)] - left.other
    rows = _rows(lost, target.positions) / scale
    return replace(target, rows=target.rows + rows)


def _solve_(
    compact: nn.Module,
    layer: nn.Module,
    batches: Sequence[Tensor],
    targets: list[_Target],
    ridge: float,
) -> None:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(layer).__name__} has no weight")
    sums = _normal_equations(compact, layer, batches, targets)
    parts = []
    for gram, cross, target, part in zip(*sums, weight.chunk(len(sums[0])), strict=True):
        anchor = part.detach().flatten(1).mT.double()
        equations = NormalEquations(gram=gram, cross=cross, anchor=anchor, target=target)
        parts.append(equations.solve(torch.arange(len(gram)), ridge=ridge).mT)
    weight.copy_(torch.cat(parts).view(weight.shape))


def _normal_equations(
    compact: nn.Module,
    layer: nn.Module,
    batches: Sequence[Tensor],
    targets: list[_Target],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gram, cross and target energy of each part, summed over batches."""
    gram: Tensor | None = None
    cross = energy = torch.zeros(0)
    for batch, target in zip(batches, targets, strict=True):
        rows = layer_rows(layer, _input_of(compact, layer, batch), target.positions).double()
        wanted = target.rows.double().chunk(len(rows), dim=1)
        y = torch.stack(wanted)
        if gram is None:
            gram, cross, energy = rows.mT @ rows, rows.mT @ y, y.square().sum(1)
        else:
            gram, cross, energy = (
                gram + rows.mT @ rows,
                cross + rows.mT @ y,
                energy + y.square().sum(1),
            )
    if gram is None:
        raise ValueError("there are no calibration samples; give at least one batch")
    return gram, cross, energy


def _input_of(model: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    """What ``layer`` reads when ``model`` is run, which goes no further."""
    seen: list[Tensor] = []

    def listen(_layer: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(listen)
    try:
        model(batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]
