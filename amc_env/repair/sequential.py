"""Repair on the inputs that the pruned network really produces, layer by layer.

A plan (``amc_env.repair.plan``) solves every layer on the original network's activations, so the
errors of layers add up on the way through the network. Here each layer is solved again on what its
pruned and already repaired predecessors give it, with the original network's output as the target.
Every policy therefore needs Gram matrices of its own.

**How it runs.** In principle, for every layer in turn: run the samples through the pruned network
up to this layer, solve, go on to the next. Starting from the first layer each time would cost as
many runs as there are layers. So one run of the pruned network takes as many samples as fit into
memory, all together, and a listener solves each layer just before it runs. For samples that do not
fit, the listener runs the network from its start up to that layer, batch by batch.

**Memory.** The samples that run together are so many that neither their largest map nor the targets
held for them exceed 2**28 numbers, 1 GiB in float32, but one batch at least; a network keeps two or
three maps alive at a time. Targets that do not fit are computed in rounds of consecutive layers.
Rows are unfolded as in calibration, at most 2**25 numbers at a time. Everything else is what a run
of one batch takes. Nothing else grows with the number of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import EnoughError, evaluating, listening, run_until_enough
from amc_env.calibration.rows import RowSampling, row_chunks
from amc_env.devices import solving_device
from amc_env.repair.jobs import Job, look_at
from amc_env.repair.least_squares import NormalEquations
from amc_env.repair.plan import DEFAULT_RIDGE
from amc_env.repair.shortcuts import Shortcut, shortcuts
from amc_env.structure import ChannelGraph

# How many numbers of one map, and of targets, are held for samples that run together.
_LIMIT = 2**28


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
    """What a layer of the original network gave on one batch.

    Attributes:
        rows: Its outputs that stay, less the bias, (samples and positions, outputs).
        other: What was added to its outputs further on, in the same rows; None if nothing was.
    """

    rows: Tensor
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
    the weights that it has. The samples in ``batches`` are run through both networks. Layers that
    run several times for one sample keep the weights that they have.

    Raises:
        ValueError: There is no sample.
    """
    if not batches:
        raise ValueError("there are no calibration samples; give at least one batch")
    with evaluating(graph.model), evaluating(compact):
        _Repair(compact, graph, kept, batches, settings or SequentialSettings()).run_()


class _Repair:
    """One run of the compact network in which every layer is solved just before it runs."""

    def __init__(
        self,
        compact: nn.Module,
        graph: ChannelGraph,
        kept: Mapping[str, Tensor],
        batches: Sequence[Tensor],
        settings: SequentialSettings,
    ) -> None:
        self._compact = compact
        self._original = graph.model
        self._batches = batches
        self._settings = settings
        survey = look_at(graph, batches[0])
        draws = survey.drawn_positions(settings.sampling, batches=len(batches))
        self._jobs = {job.name: job for job in survey.jobs(compact, graph, kept, draws)}
        self._held = _fitting(
            batches, max([survey.largest, *map(self._numbers, self._jobs.values())])
        )
        self._targets: dict[str, list[_Target]] = {}
        self._is_solving = False

    def run_(self) -> None:
        """Solve all layers."""
        layers = {name: job.layer for name, job in self._jobs.items()}
        with listening(layers, before=self._arrive):
            self._compact(torch.cat(list(self._batches[: self._held])))

    def _arrive(self, name: str, _layer: nn.Module, inputs: Tensor) -> None:
        """Solve a layer that the run of the held samples has come to."""
        # To solve a layer, other runs of the network are begun inside of this one. They come past
        # the same listener, and must not solve anything.
        if self._is_solving:
            return
        self._is_solving = True
        try:
            self._solve_(self._jobs[name], inputs)
        finally:
            self._is_solving = False

    def _solve_(self, job: Job, inputs: Tensor) -> None:
        sums = _NormalSums(job.layer)
        targets = self._held_targets(job)
        for number, (x, target) in enumerate(zip(self._by_batch(inputs), targets, strict=True)):
            sums.add(x, self._of_sum(job, number, target), job.positions[number])
        for number in range(self._held, len(self._batches)):
            aim = self._of_sum(job, number, self._original_targets([job], number)[job.name])
            sums.add(self._inputs(job, number), aim, job.positions[number])
        sums.solve_(ridge=self._settings.ridge)

    def _by_batch(self, inputs: Tensor) -> list[Tensor]:
        """A layer's inputs in the run of the held samples, as if their batches had run by turns."""
        sizes = [len(batch) for batch in self._batches[: self._held]]
        # A model may have split each sample into several.
        each = len(inputs) // sum(sizes)
        return list(inputs.split([each * size for size in sizes]))

    def _held_targets(self, job: Job) -> list[_Target]:
        """Targets on the held batches, computed together with those of the layers that follow."""
        if job.name not in self._targets:
            self._targets.clear()
            jobs = self._round_from(job)
            found = [self._original_targets(jobs, number) for number in range(self._held)]
            self._targets = {j.name: [targets[j.name] for targets in found] for j in jobs}
        return self._targets[job.name]

    def _numbers(self, job: Job) -> int:
        """How many numbers the targets of one sample are."""
        return job.numbers * (2 if self._settings.match_residual_sums else 1)

    def _round_from(self, job: Job) -> list[Job]:
        """This layer and the next ones, as far as the targets of all fit into the limit."""
        jobs = list(self._jobs.values())
        samples = sum(len(batch) for batch in self._batches[: self._held])
        chosen, total = [job], self._numbers(job) * samples
        for after in jobs[jobs.index(job) + 1 :]:
            total += self._numbers(after) * samples
            if total > _LIMIT:
                break
            chosen.append(after)
        return chosen

    def _original_targets(self, jobs: Sequence[Job], number: int) -> dict[str, _Target]:
        """Targets of some layers on one batch, from a run of the original network."""
        waiting = {job.name: job for job in jobs}
        found: dict[str, _Target] = {}

        def keep(name: str, layer: nn.Module, output: Tensor) -> None:
            rows = _rows(layer, output, waiting[name].positions[number])
            rows = rows[:, waiting[name].outputs]
            bias = layer.bias
            if isinstance(bias, Tensor):
                rows = rows - bias[waiting[name].outputs]
            found[name] = _Target(rows=rows)
            if len(found) == len(waiting):
                raise EnoughError

        layers = {name: self._original.get_submodule(name) for name in waiting}
        with listening(layers, after=keep):
            run_until_enough(self._original, self._batches[number])
        if self._settings.match_residual_sums:
            for name, beside in self._shortcuts(self._original, jobs, number).items():
                other = beside.other[:, waiting[name].outputs]
                found[name] = replace(found[name], other=other)
        return found

    def _shortcuts(self, model: nn.Module, jobs: Sequence[Job], number: int) -> dict[str, Shortcut]:
        """Shortcuts beside some layers on one batch, of which the rows that count are kept."""
        positions = {job.name: job.positions[number] for job in jobs}

        def keep(name: str, other: Tensor) -> Tensor:
            return _rows(model.get_submodule(name), other, positions[name])

        return shortcuts(model, positions, self._batches[number], keep=keep)

    def _inputs(self, job: Job, number: int) -> Tensor:
        """A layer's inputs on one batch, from a run of the compact network up to it."""
        found: list[Tensor] = []

        def keep(_name: str, _layer: nn.Module, x: Tensor) -> None:
            found.append(x)
            raise EnoughError

        with listening({job.name: job.layer}, before=keep):
            run_until_enough(self._compact, self._batches[number])
        return found[0]

    def _of_sum(self, job: Job, number: int, target: _Target) -> Tensor:
        """The rows to aim at: where outputs go into a sum, those that give the original sum back.

        With ``a`` the scale between layer and sum, ``s`` the shortcut and ``s'`` what is left of
        it, the layer's own target ``z`` becomes ``z + (s - s') / a``.
        """
        if target.other is None:
            return target.rows
        # The shortcut may be computed after this layer, so it takes a run that looks ahead.
        left = self._shortcuts(self._compact, [job], number).get(job.name)
        if left is None:
            return target.rows
        # A channel that the norm all but silences cannot make up for anything.
        heard = left.scale.abs() > 1e-3 * left.scale.abs().max()
        scale = torch.where(heard, left.scale, float("inf"))
        return target.rows + (target.other - left.other) / scale


class _NormalSums:
    """The normal equations of a layer, summed over batches."""

    def __init__(self, layer: nn.Module) -> None:
        weight = layer.weight
        if not isinstance(weight, Tensor):
            raise ValueError(f"{type(layer).__name__} has no weight")
        self._layer = layer
        self._weight = weight
        device = solving_device(weight.device)
        # Anchors are (outputs, columns) for each convolution group.
        self._anchors = weight.detach().to(device).double().flatten(1)
        self._anchors = torch.stack(self._anchors.chunk(int(getattr(layer, "groups", 1))))
        parts, outputs, columns = self._anchors.shape
        self._gram = self._anchors.new_zeros(parts, columns, columns)
        self._cross = self._anchors.new_zeros(parts, columns, outputs)
        self._energy = self._anchors.new_zeros(parts, outputs)

    def add(self, x: Tensor, aim: Tensor, positions: Tensor | None) -> None:
        """Add one batch of the layer's inputs, and the rows of outputs that they are to give."""
        start = 0
        for rows in row_chunks(self._layer, x, positions, outputs=aim.shape[1]):
            wanted = aim[start : start + rows.shape[1]].to(rows.device).double()
            y = torch.stack(wanted.chunk(len(rows), dim=1))
            start += rows.shape[1]
            self._gram.baddbmm_(rows.mT, rows)
            self._cross.baddbmm_(rows.mT, y)
            self._energy += y.square().sum(1)
            # Otherwise these rows would still be held while the next ones are unfolded.
            del rows, wanted, y

    def solve_(self, *, ridge: float) -> None:
        """Write the solution into the layer."""
        solved = []
        for gram, cross, energy, anchor in zip(
            self._gram, self._cross, self._energy, self._anchors, strict=True
        ):
            equations = NormalEquations(gram=gram, cross=cross, anchor=anchor.mT, target=energy)
            solved.append(equations.solve(torch.arange(len(gram)), ridge=ridge).mT)
        # Converted before it is copied, as the layer's device may have no float64.
        self._weight.copy_(torch.cat(solved).view(self._weight.shape).to(self._weight.dtype))


def _fitting(batches: Sequence[Tensor], numbers: int) -> int:
    """How many batches from the first on fit into the limit, at so many numbers for one sample."""
    held = total = 0
    for batch in batches:
        total += numbers * len(batch)
        if held and total > _LIMIT:
            break
        held += 1
    return held


def _rows(layer: nn.Module, maps: Tensor, positions: Tensor | None) -> Tensor:
    """Maps at some positions as rows, in the order of ``layer_rows``: (rows, channels), a copy."""
    if isinstance(layer, nn.Linear):
        return maps.reshape(-1, maps.shape[-1]).clone()
    pixels = maps.flatten(2)
    pixels = pixels.clone() if positions is None else pixels[..., positions.to(maps.device)]
    return pixels.mT.reshape(-1, maps.shape[1])
