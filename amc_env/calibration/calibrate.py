"""Runs calibration samples through a model and keeps what criteria and repair need of them.

For every layer that reads prunable channels the Gram matrix of its unfolded inputs is accumulated
in float64, batch by batch, on the layer's device or, where that has no float64, on the CPU. No
activation outlives its batch. The memory is therefore that of the matrices, 8 bytes times (inputs
of a kernel) squared for each layer and convolution group, about half a gigabyte for unfolded rows,
and what a run of one batch takes, however many samples there are. The samples themselves are kept
by reference, or read again where they are a stream. Feature maps are computed again when a
criterion asks for them, and are all that grows with the samples: those of one layer on all samples
are held, and where that is less than half a gigabyte, those of some of the next layers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.batches import Batch, first_tensor, sizes
from amc_env.calibration.ahead import MapsAhead
from amc_env.calibration.feature_maps import map_gradients
from amc_env.calibration.hooks import checked_batch, evaluating, listening, run
from amc_env.calibration.rows import (
    RowSampling,
    can_be_repaired,
    check_input,
    count_positions,
    draw_positions,
    row_chunks,
)
from amc_env.devices import with_float64
from amc_env.structure import Member
from amc_env.tasks import Classification, Task
from amc_env.tasks.classification import check_classes


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A model, calibration samples, and the Gram matrices of what its layers read on them.

    Attributes:
        model: The original network.
        batches: The samples, in batches; empty for criteria that look at weights alone.
        labels: Classes (samples,), in the order of the batches, where they are known.
        task: Says which part of the network's output are its class scores.
        grams: (parts, columns, columns) in float64 for every calibrated layer; a part is a
            convolution group, a column an input of its kernel, channel-major.
        seed: The seed of criteria that draw at random.
        ahead: Maps that are computed before they are asked for; None where each is alone.
    """

    model: nn.Module
    batches: Sequence[Batch] = ()
    labels: Tensor | None = None
    task: Task = field(default_factory=Classification)
    grams: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    ahead: MapsAhead | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            check_classes(self.labels, samples=self.samples)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(sizes(self.batches))

    def known_labels(self) -> Tensor:
        """The classes of the samples.

        Raises:
            ValueError: They are not known.
        """
        self._check_samples()
        if self.labels is None:
            raise ValueError("the calibration samples have no labels; pass them to calibrate()")
        return with_float64(self.labels)

    def maps(self, producer: Member, *, samples: int | None = None) -> Tensor:
        """Maps (samples, channels, H, W) of a group's channels, after norm and activation.

        They are those of the first ``samples``, or of all.

        A channel that stands at several indices of the layer's output, as in a grouped convolution,
        has these maps side by side in the last dimension.

        Raises:
            ValueError: There are no samples, or the maps are not finite.
        """
        self._check_samples()
        ahead = self.ahead or MapsAhead(self.model, self.batches, ())
        return with_float64(_places(producer, ahead.take(producer.module, samples=samples)))

    def asked_in_turn(self, producers: Iterable[Member]) -> "Calibration":
        """The same, for who asks for the ``maps`` of these in turn: one pass serves several.

        Maps of layers that will be asked for next are held too, half a gigabyte of them at most.
        """
        layers = [producer.module for producer in producers]
        return replace(self, ahead=MapsAhead(self.model, self.batches, layers))

    def maps_and_gradients(self, producer: Member) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch the ``maps``, and the gradient of the summed cross-entropy there.

        Raises:
            ValueError: There are no samples or labels.
        """
        labels = self.known_labels().split(sizes(self.batches))
        for x, y in zip(self.batches, labels, strict=True):
            with evaluating(self.model), torch.enable_grad():
                loss = partial(_cross_entropy, self.task, labels=y)
                maps, gradients = map_gradients(self.model, producer.module, x, loss)
            pair = (_places(producer, maps), _places(producer, gradients))
            yield with_float64(pair[0]), with_float64(pair[1])

    def channel_grams(self, layer: str, *, parts: int = 1) -> Tensor:
        """Gram matrices (parts, inputs, inputs) of what a layer reads, a column for each channel.

        Every pixel, or every step of a sequence, is a row; a part is a convolution group.

        Raises:
            ValueError: There are no samples, or the layer did not run.
        """
        self._check_samples()
        sums: list[Tensor] = []

        def add(_: str, module: nn.Module, x: Tensor) -> None:
            rows = with_float64(x if isinstance(module, nn.RNNBase) else x.movedim(1, -1))
            by_part = rows.double().flatten(0, -2).unflatten(1, (parts, -1)).movedim(1, 0)
            sums.append(by_part.mT @ by_part)

        module = self.model.get_submodule(layer)
        with evaluating(self.model), listening({layer: module}, before=add):
            for batch in self.batches:
                run(self.model, batch)
        if not sums:
            raise ValueError(f"layer {layer!r} did not run on the calibration samples")
        return torch.stack(sums).sum(0)

    def _check_samples(self) -> None:
        if not self.batches:
            raise ValueError("there are no calibration samples; give at least one batch")


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] = (),
    labels: Tensor | None = None,
    task: Task | None = None,
    sampling: RowSampling | None = None,
) -> Calibration:
    """Run ``batches`` through ``model`` in evaluation mode and sum up the inputs of ``layers``.

    The model keeps the mode it had and no hook stays on it, even after an error.

    Raises:
        ValueError: There is no sample, the model cannot read the samples, a layer is no convolution
            or linear layer or did not run, its inputs are not finite, or labels do not fit.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in layers if not can_be_repaired(modules.get(name))]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no convolution or linear layer of the model")
    sampling = sampling or RowSampling()
    sums = _Sums(sampling)
    # Batches that can be read again are not held.
    samples: Sequence[Batch] = batches if isinstance(batches, Sequence) else tuple(batches)
    if not samples:
        raise ValueError("there are no calibration samples; give at least one batch")
    with evaluating(model), listening({name: modules[name] for name in layers}, before=sums.add):
        for batch in samples:
            checked_batch(batch)
            if layers:
                run(model, batch)
    silent = [name for name in layers if name not in sums.grams]
    if silent:
        raise ValueError(f"layer {silent[0]!r} did not run on the calibration samples")
    return Calibration(
        model=model,
        batches=samples,
        labels=labels,
        task=task or Classification(),
        grams=sums.grams,
        seed=sampling.seed,
    )


def _cross_entropy(task: Task, output: object, *, labels: Tensor) -> Tensor:
    scores = first_tensor(task.tensors(output))
    return F.cross_entropy(scores, labels.to(scores.device), reduction="sum")


def _places(producer: Member, maps: Tensor) -> Tensor:
    """The group's channels of a layer's maps (N, outputs, H, W)."""
    chosen = maps[:, producer.positions.to(maps.device)]
    return chosen.movedim(2, -1).flatten(3)


class _Sums:
    """Gram matrices that grow with every batch."""

    def __init__(self, sampling: RowSampling) -> None:
        self.grams: dict[str, Tensor] = {}
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def add(self, name: str, layer: nn.Module, x: Tensor) -> None:
        """Add one batch of a layer's inputs."""
        check_input(name, layer, x)
        total = count_positions(layer, x)
        positions = draw_positions(total, self._sampling.positions, self._generator)
        for rows in row_chunks(layer, x, positions):
            if name in self.grams:
                # In place: a product of its own would be one more of the largest matrices.
                self.grams[name].baddbmm_(rows.mT, rows)
            else:
                self.grams[name] = rows.mT @ rows
            # Otherwise these rows would still be held while the next ones are unfolded.
            del rows
        # A value that is not finite is squared on the diagonal, so that only the diagonal need be
        # looked at.
        if not self.grams[name].diagonal(dim1=-2, dim2=-1).isfinite().all():
            raise ValueError(
                f"layer {name!r} reads NaN or infinite values on the calibration samples; "
                "check the samples and the weights before it"
            )
