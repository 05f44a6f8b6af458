"""Repair on the inputs that the pruned network really produces, layer by layer.

A plan (``amc_env.repair.plan``) solves every layer on the original network's activations, so the
errors of layers add up on the way through the network. Here each layer is solved again on what its
pruned and already repaired predecessors give it, with the original network's output as the target.
Every policy therefore needs Gram matrices of its own.

**How it runs.** In principle, for every layer in turn: run the samples through the pruned network
up to this layer, solve, go on to the next. Starting from the first layer each time would cost as
many runs as there are layers. So one run of the pruned network takes as many samples as fit into
memory, all together, and a listener solves each layer just before it runs. A layer whose output is
added to a shortcut is solved a moment later, just before the sum, when the shortcut is known; its
output is then computed again. For samples that do not fit, the listener runs the network from its
start up to that layer, batch by batch. The targets are held from one repair to the next.

**Memory.** The samples that run together are so many that neither their largest map nor the targets
held for them exceed 2**28 numbers, 1 GiB in float32, but one batch at least; a network keeps three
or four maps alive at a time. Targets that do not fit are computed in rounds of consecutive layers.
Rows are unfolded as in calibration, at most 2**25 numbers at a time. Everything else is what a run
of one batch takes. Nothing else grows with the number of samples.

**Constants.** Where a layer has a bias, or a batch norm reads its outputs, a constant for each
output is solved for besides the weights: it makes up for the mean of what removed channels gave.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, joined, sizes
from amc_env.calibration.hooks import EnoughError, evaluating, listening, run_until_enough
from amc_env.calibration.rows import RowSampling
from amc_env.precision import Format
from amc_env.repair.jobs import Job, jobs
from amc_env.repair.layer_problem import LayerProblem
from amc_env.repair.plan import DEFAULT_RIDGE
from amc_env.repair.shortcuts import Follower, Shortcut, Trail, shortcuts
from amc_env.repair.survey import Places, look_at
from amc_env.repair.targets import Target, Targets, map_rows
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True)
class SequentialSettings:
    """How layers are solved one after the other.

    Attributes:
        sampling: Which rows of a convolution's inputs count.
        ridge: Pull towards the weights that the network has, relative to the mean square of an
            input.
        rows_per_input: With so many rows for each input of a layer, the pull towards the weights
            that the network has is greater by the mean square of an input. It falls with the square
            of the rows: where these are few, a layer would fit their noise. 0 for none.
        only_readers: Whether only layers are solved that read a group, whose channels may be cut.
            The others read all that they have always read, and what they gain by few rows is
            little.
        match_residual_sums: Whether a layer whose output is added to a shortcut, as at the end of a
            residual block, is solved for the original *sum*: it then makes up for what
            the shortcut lost.
    """

    sampling: RowSampling = field(default_factory=RowSampling)
    ridge: float = DEFAULT_RIDGE
    rows_per_input: float = 0.0
    only_readers: bool = False
    match_residual_sums: bool = False


class SequentialRepair:
    """Repairs compact networks of one original; what does not depend on the policy is held.

    Args:
        graph: The structure of the original network.
        batches: Calibration samples, which are run through both networks.
        settings: How layers are solved.

    Raises:
        ValueError: There is no sample.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        batches: Sequence[Batch],
        *,
        settings: SequentialSettings | None = None,
    ) -> None:
        if not batches:
            raise ValueError("there are no calibration samples; give at least one batch")
        self._graph = graph
        self._settings = settings or SequentialSettings()
        self._batches = batches
        with evaluating(graph.model):
            self._survey = survey = look_at(graph, batches[0])
        self._places = survey.places(self._settings.sampling, batches=len(batches))
        self._targets = Targets(
            graph.model,
            batches,
            survey,
            self._places,
            match_sums=self._settings.match_residual_sums,
        )

    @torch.no_grad()
    def hold_(self) -> None:
        """Compute now what all repairs share, instead of within the first of them."""
        with evaluating(self._graph.model):
            self._targets.hold_()

    @torch.no_grad()
    def repair_(self, compact: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Solve the layers of ``compact`` again, in execution order, on their own inputs.

        ``compact`` is ``graph.compact(kept)``, plain or with a plan applied; the ridge pulls
        towards the weights that it has. Layers that run several times for one sample keep the
        weights that they have.
        """
        found = jobs(
            self._survey,
            compact,
            self._graph,
            kept,
            only_readers=self._settings.only_readers,
        )
        with evaluating(self._graph.model), evaluating(compact):
            _Run(
                compact,
                found,
                batches=self._batches,
                places=self._places,
                targets=self._targets,
                settings=self._settings,
            ).run_()


def repair_sequentially_(
    compact: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    batches: Sequence[Batch],
    *,
    settings: SequentialSettings | None = None,
) -> None:
    """Repair one compact network; see :class:`SequentialRepair`."""
    SequentialRepair(graph, batches, settings=settings).repair_(compact, kept)


class _Run:
    """One run of the compact network in which every layer is solved just before it is needed."""

    def __init__(
        self,
        compact: nn.Module,
        jobs_: Mapping[str, Job],
        *,
        batches: Sequence[Batch],
        places: Sequence[Mapping[str, Places]],
        targets: Targets,
        settings: SequentialSettings,
    ) -> None:
        self._compact = compact
        self._jobs = jobs_
        self._batches = batches
        self._places = places
        self._targets = targets
        self._settings = settings
        self._inputs: dict[str, Tensor] = {}
        self._is_solving = False

    def run_(self) -> None:
        """Solve all layers."""
        layers = {name: job.layer for name, job in self._jobs.items()}
        self._follower = Follower(layers, self._end)
        with listening(layers, before=self._arrive, after=self._leave), self._follower:
            together = joined([*self._batches[: self._targets.together]])
            call(self._compact, Format().arrange(together))
            # Outputs of the network itself are read by no function.
            self._follower.end()

    def _arrive(self, name: str, _layer: nn.Module, x: Tensor) -> None:
        """Solve a layer that the run has come to, unless it has to be solved for a sum."""
        if self._is_solving:
            return
        if self._is_of_sum(name):
            # What its sum lacks is not known before the shortcut has been computed.
            self._inputs[name] = x
            return
        with self._solving():
            self._solve_(self._jobs[name], x, None)

    def _leave(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Follow the output of a layer that waits for its sum."""
        if not self._is_solving and name in self._inputs:
            self._follower.begin(name, layer, output)

    def _end(self, trail: Trail, other: Tensor | None) -> None:
        """Solve a layer whose output has come to its sum, and compute it and its norms again."""
        job, x = self._jobs[trail.layer], self._inputs.pop(trail.layer)
        with self._solving():
            beside = None if other is None else Shortcut(other=other, scale=trail.scale)
            self._solve_(job, x, beside)
            trail.redo_(job.layer(x))

    @contextmanager
    def _solving(self) -> Iterator[None]:
        # To solve a layer, it and the network are run inside of this run. They come past the same
        # listeners, and must not solve anything.
        self._is_solving = True
        try:
            yield
        finally:
            self._is_solving = False

    def _is_of_sum(self, name: str) -> bool:
        return self._targets.held(name)[0].other is not None

    def _solve_(self, job: Job, x: Tensor, beside: Shortcut | None) -> None:
        """Solve a layer for its inputs, and the shortcut beside it, in the run of held samples."""
        problem = LayerProblem(job)
        others = [None] * self._targets.together if beside is None else self._split(beside.other)
        for number, (inputs, target, other) in enumerate(
            zip(self._split(x), self._targets.held(job.name), others, strict=True)
        ):
            left = None if beside is None or other is None else (other, beside.scale)
            self._add(problem, job, number, inputs=inputs, target=target, left=left)
        for number in range(self._targets.together, len(self._batches)):
            target = self._targets.on_batch([job.name], number)[job.name]
            left = self._look_ahead(job, number) if target.other is not None else None
            inputs = self._look_up(job, number)
            self._add(problem, job, number, inputs=inputs, target=target, left=left)
        few = self._settings.rows_per_input * problem.inputs / problem.rows
        problem.solve_(ridge=self._settings.ridge + few**2)

    def _split(self, maps: Tensor) -> list[Tensor]:
        """Maps of the run of the held samples, as if their batches had run by turns."""
        counts = sizes(self._batches[: self._targets.together])
        # A model may have split each sample into several.
        each = len(maps) // sum(counts)
        return list(maps.split([each * number for number in counts]))

    def _add(
        self,
        problem: LayerProblem,
        job: Job,
        number: int,
        *,
        inputs: Tensor,
        target: Target,
        left: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Add a batch; ``left`` is the compact network's own shortcut, and its scale."""
        places = self._places[number][job.name]
        aim = target.rows[:, job.outputs]
        if left is not None and target.other is not None:
            other = map_rows(job.layer, left[0], places.positions)
            aim = _of_sum(aim, target.other[:, job.outputs] - other, scale=left[1])
        problem.add(inputs, aim, places)

    def _look_up(self, job: Job, number: int) -> Tensor:
        """A layer's inputs on one batch, from a run of the compact network up to it."""
        found: list[Tensor] = []

        def keep(_name: str, _layer: nn.Module, x: Tensor) -> None:
            found.append(x)
            raise EnoughError

        with listening({job.name: job.layer}, before=keep):
            run_until_enough(self._compact, Format().arrange(self._batches[number]))
        return found[0]

    def _look_ahead(self, job: Job, number: int) -> tuple[Tensor, Tensor] | None:
        """What is added to a layer's output on one batch, and the scale, from a run up to it."""
        found = shortcuts(self._compact, [job.name], self._batches[number], keep=_copied)
        return (found[job.name].other, found[job.name].scale) if found else None


def _of_sum(aim: Tensor, lost: Tensor, *, scale: Tensor) -> Tensor:
    """The rows to aim at so that a sum is the original one although its other term lost something.

    With ``a`` the scale between layer and sum, ``s`` the shortcut and ``s'`` what is left of it,
    the layer's own target ``z`` becomes ``z + (s - s') / a``.
    """
    # A channel that the norm all but silences cannot make up for anything.
    heard = scale.abs() > 1e-3 * scale.abs().max()
    return aim + lost / torch.where(heard, scale, float("inf"))


def _copied(_name: str, other: Tensor) -> Tensor:
    return other.clone()
