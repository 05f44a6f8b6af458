"""Repair on the inputs that the pruned network really produces, layer by layer.

A plan (``amc_env.repair.plan``) solves every layer on the original network's activations, so
errors add up from layer to layer. Here each layer is solved again on what its pruned predecessors,
already repaired, give it, with the original network's outputs as the target. It needs new Gram
matrices for every layer: for a policy that is realised for good, not for every episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import evaluating, input_of_call
from amc_env.calibration.rows import RowSampling, can_be_repaired, draw_positions, layer_rows
from amc_env.repair.least_squares import NormalEquations
from amc_env.repair.plan import DEFAULT_RIDGE
from amc_env.repair.shortcuts import Shortcut, shortcuts
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True)
class SequentialSettings:
    """How layers are solved one after the other.

    Attributes:
        sampling: Which rows of a convolution's inputs count.
        ridge: Pull towards the weights that the network has, relative to the mean square of an
            input.
        match_residual_sums: Whether a layer whose output is added to a shortcut, as at the end of a
            residual block, is solved for the original *sum*: it then makes up for what
            the shortcut lost.
    """

    sampling: RowSampling = field(default_factory=RowSampling)
    ridge: float = DEFAULT_RIDGE
    match_residual_sums: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """What a layer of the original network gave on one batch, and where on the map.

    Attributes:
        rows: Its outputs less the bias.
        positions: Which positions of the map the rows are; all if None.
        other: What was added to its outputs further on, in the same rows; None if nothing was.
    """

    rows: Tensor
    positions: Tensor | None
    other: Tensor | None = None


def repair_sequentially_(
    compact: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    settings: SequentialSettings | None = None,
) -> None:
    """Solve the layers of ``compact`` again, in execution order, on their own inputs.

    ``compact`` is ``graph.compact(kept)``, plain or with a plan applied; the ridge pulls towards
    the weights that it has. The samples in ``batches`` are run through both networks, through the
    compact one all together. Layers that are used several times keep the weights they have.

    Raises:
        ValueError: There is no sample.
    """
    if not batches:
        raise ValueError("there are no calibration samples; give at least one batch")
    settings = settings or SequentialSettings()
    with evaluating(graph.model):
        targets = _targets(graph, batches, settings)
    for name, each in targets.items():
        outputs = _kept_outputs(graph, name, kept, each[0].rows.shape[1])
        targets[name] = [_cut(target, outputs) for target in each]
    with evaluating(compact):
        _Pass(compact, batches, targets, settings.ridge).run_()


def _layers_to_solve(graph: ChannelGraph) -> list[str]:
    """Repairable layers in execution order, behind the first that makes a group."""
    modules = dict(graph.model.named_modules())
    names = [layer.name for layer in graph.cost().layers]
    first = min(names.index(p.module) for g in graph.groups for p in g.producers)
    return [name for name in names[first + 1 :] if can_be_repaired(modules.get(name))]


def _targets(
    graph: ChannelGraph, batches: Sequence[Tensor], settings: SequentialSettings
) -> dict[str, list[_Target]]:
    """What the layers gave on every batch; layers used not once are left out."""
    sampling = settings.sampling
    generator = torch.Generator().manual_seed(sampling.seed)
    found: dict[str, list[_Target]] = {name: [] for name in _layers_to_solve(graph)}

    def listener(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        def listen(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
        ) -> None:
            x = input_of_call(args, kwargs)
            positions = draw_positions(layer, x, sampling.positions, generator)
            rows = _output_rows(layer, out, positions)
            found[name].append(_Target(rows=rows, positions=positions))

        return listen

    modules = dict(graph.model.named_modules())
    handles = [
        modules[name].register_forward_hook(listener(name), with_kwargs=True) for name in found
    ]
    try:
        for batch in batches:
            graph.model(batch)
    finally:
        for handle in handles:
            handle.remove()
    once = {name: each for name, each in found.items() if len(each) == len(batches)}
    if settings.match_residual_sums:
        for number, batch in enumerate(batches):
            for name, beside in shortcuts(graph.model, once, batch).items():
                target = once[name][number]
                rows = _rows(beside.other, target.positions)
                once[name][number] = replace(target, other=rows)
    return once


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


def _kept_outputs(graph: ChannelGraph, name: str, kept: Mapping[str, Tensor], size: int) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)
    for group in graph.groups:
        # A depthwise convolution follows its group and loses the same outputs.
        for member in (*group.producers, *group.followers):
            if member.module == name and group.name in kept:
                stays[member.positions.flatten()] = False
                stays[member.positions[kept[group.name]].flatten()] = True
    return stays.nonzero().flatten()


def _cut(target: _Target, outputs: Tensor) -> _Target:
    """The target of the outputs that stay."""
    other = None if target.other is None else target.other[:, outputs]
    return replace(target, rows=target.rows[:, outputs], other=other)


class _Pass:
    """One run of the compact network, in which every layer is solved just before it is used."""

    def __init__(
        self,
        compact: nn.Module,
        batches: Sequence[Tensor],
        targets: dict[str, list[_Target]],
        ridge: float,
    ) -> None:
        self._compact = compact
        self._batches = batches
        self._targets = targets
        self._ridge = ridge

    def run_(self) -> None:
        """Solve all layers."""
        modules = dict(self._compact.named_modules())
        handles = [
            modules[name].register_forward_pre_hook(self._solver(name), with_kwargs=True)
            for name in self._targets
        ]
        try:
            self._compact(torch.cat(list(self._batches)))
        finally:
            for handle in handles:
                handle.remove()

    def _solver(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def solve(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            targets = self._targets.pop(name, None)
            if targets is not None:
                inputs = self._by_batch(input_of_call(args, kwargs))
                _solve_(layer, inputs, self._of_sums(name, targets), self._ridge)

        return solve

    def _by_batch(self, inputs: Tensor) -> list[Tensor]:
        """A layer's inputs as if the batches had run one by one."""
        sizes = [len(batch) for batch in self._batches]
        # A model may have split each sample into several.
        each = len(inputs) // sum(sizes)
        return list(inputs.split([each * size for size in sizes]))

    def _of_sums(self, name: str, targets: list[_Target]) -> list[_Target]:
        """Targets that give back the original sums, where outputs go into some."""
        if targets[0].other is None:
            return targets
        # Looking ahead runs the network from its start once more, which must solve nothing.
        waiting, self._targets = self._targets, {}
        try:
            return [
                _of_sum(shortcuts(self._compact, [name], batch).get(name), target)
                for batch, target in zip(self._batches, targets, strict=True)
            ]
        finally:
            self._targets = waiting


def _of_sum(left: Shortcut | None, target: _Target) -> _Target:
    """The target that makes up for what the compact network's shortcut lost."""
    if left is None or target.other is None:
        return target
    # A channel that the norm all but silences cannot make up for anything.
    heard = left.scale.abs() > 1e-3 * left.scale.abs().max()
    scale = torch.where(heard, left.scale, float("inf"))
    lost = target.other - _rows(left.other, target.positions)
    return replace(target, rows=target.rows + lost / scale)


def _solve_(layer: nn.Module, inputs: list[Tensor], targets: list[_Target], ridge: float) -> None:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(layer).__name__} has no weight")
    sums = _normal_equations(layer, inputs, targets)
    parts = []
    for gram, cross, target, part in zip(*sums, weight.chunk(len(sums[0])), strict=True):
        anchor = part.detach().flatten(1).mT.double()
        equations = NormalEquations(gram=gram, cross=cross, anchor=anchor, target=target)
        parts.append(equations.solve(torch.arange(len(gram)), ridge=ridge).mT)
    weight.copy_(torch.cat(parts).view(weight.shape))


def _normal_equations(
    layer: nn.Module, inputs: list[Tensor], targets: list[_Target]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gram, cross and target energy of each part, summed over batches."""
    gram = cross = energy = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
    for batch, target in zip(inputs, targets, strict=True):
        rows = layer_rows(layer, batch, target.positions).double()
        y = torch.stack(target.rows.double().chunk(len(rows), dim=1))
        gram = gram + rows.mT @ rows
        cross = cross + rows.mT @ y
        energy = energy + y.square().sum(1)
    return gram, cross, energy
