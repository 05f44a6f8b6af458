"""Outputs and the metric of networks on a fixed split: fast for rewards, exact for reports."""

from collections.abc import Iterable
from functools import partial
from math import ceil
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.batches import (
    Batch,
    call,
    first_tensor,
    in_parts,
    joined,
    mapped,
    taken,
    tensors_in,
)
from amc_env.calibration.hooks import evaluating
from amc_env.data import Source, Split
from amc_env.folding import Fold, folded
from amc_env.precision import Choice, Format, Precision, fixed, measure, worthwhile_seconds
from amc_env.tasks import Classification, Task

# How long a run may be that chooses the format, in seconds for each sample that is evaluated.
_RUN_PER_SAMPLE = 5e-4


class Evaluator:
    """Computes the outputs of networks on one split.

    A stream is read again for every network; what its ``resident`` returns is held where it fits.

    Args:
        split: The samples.
        batch: Number of samples in a forward pass.
        precision: ``float32``, or ``bfloat16`` for convolutions and linear layers; ``auto``
            measures on the first network which format runs fastest, and stays with it. A choice
            that was measured before holds as it is.
        folds: Batch norms to fold into convolutions, in every network that is run.
        task: What the networks are trained for; classification by default.

    Attributes:
        split: The samples.
        task: What the networks are trained for.
        choice: The format in which networks run, and its measurement; None before the first one.

    Raises:
        ValueError: ``batch`` is less than 1, or the precision does not exist.
    """

    def __init__(
        self,
        split: Source,
        *,
        batch: int = 100,
        precision: Precision | Choice = "auto",
        folds: tuple[Fold, ...] = (),
        task: Task | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; give at least 1")
        if not isinstance(precision, Choice) and precision not in get_args(Precision):
            raise ValueError(
                f"precision {precision!r} does not exist; choose {', '.join(get_args(Precision))}"
            )
        self.split = split
        self.task = task or Classification()
        self.choice = precision if isinstance(precision, Choice) else fixed(precision)
        self._folds = folds
        self._batch = batch
        self._inputs = split.inputs if isinstance(split, Split) else None
        self._arrange_(self.choice.format if self.choice else Format())

    def whole_batches(self, samples: int) -> int:
        """The least number of first samples that is whole batches and at least ``samples``.

        Raises:
            ValueError: ``samples`` is less than 1.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; give at least 1")
        return min(ceil(samples / self._batch) * self._batch, len(self.split))

    def part(self, start: int, stop: int) -> "Evaluator":
        """An evaluator on the samples from ``start`` to before ``stop``, in the same format.

        Where both are whole batches, its batches are some of this one's, so the outputs are the
        same to the last bit.
        """
        chosen, labels = slice(start, stop), self.split.labels
        if self._inputs is None:
            part = self.split.take(chosen)
        else:
            known = None if labels is None else taken(labels, chosen)
            part = Split(inputs=taken(self._inputs, chosen), labels=known)
        return Evaluator(
            part,
            batch=self._batch,
            precision=self.choice or "auto",
            folds=self._folds,
            task=self.task,
        )

    def choose(self, model: nn.Module) -> Choice:
        """The format in which this evaluator runs networks; measured on ``model`` if none is yet.

        Raises:
            ValueError: The output is not what the task reads.
        """
        if self.choice is None:
            by_scores = not self.task.has_classes
            with evaluating(model):
                run = partial(self._as_one, model)
                few = self._arranged(self.split.first(self._batch))
                # On few samples, what every layer costs at all hides what the others would.
                seconds = worthwhile_seconds(len(self.split) * _RUN_PER_SAMPLE)
                self.choice = measure(run, few, by_scores=by_scores, seconds=seconds)
            self._arrange_(self.choice.format)
        return self.choice

    def outputs(self, model: nn.Module) -> Batch:
        """What the task reads of the outputs, float32; class scores (samples, classes).

        Raises:
            ValueError: The output is not what the task reads, or does not fit the labels.
        """
        computing = self.choose(model).format.computing(self.split.device)
        with evaluating(model):
            network = folded(model, self._folds)
        with evaluating(network), computing:
            parts = [self._run(network, x) for x in self._parts()]
        outputs = mapped(Tensor.float, joined(parts))
        self.task.check(outputs, self.split.labels)
        return outputs

    def evaluate(self, model: nn.Module) -> float:
        """The task's metric: of a classification, the share of samples of the right class."""
        return self.task.evaluate(self.outputs(model), self.split.labels)

    def _parts(self) -> Iterable[Batch]:
        """The inputs in batches, in the layout of the format."""
        if self._inputs is not None:
            return in_parts(self._inputs, self._batch)
        return map(self._arranged, self.split.parts(self._batch))

    def _arranged(self, batch: Batch) -> Batch:
        return (self.choice.format if self.choice else Format()).arrange(batch)

    def _arrange_(self, form: Format) -> None:
        if self._inputs is not None:
            self._inputs = form.arrange(self._inputs)

    def _run(self, model: nn.Module, batch: Batch) -> Batch:
        return self.task.tensors(call(model, batch))

    def _as_one(self, model: nn.Module, batch: Batch) -> Tensor:
        """The outputs as one tensor, (samples, ...)."""
        outputs = self._run(model, batch)
        if isinstance(outputs, Tensor):
            return outputs
        return torch.cat([x.flatten(1) for x in tensors_in(outputs)], 1)


@torch.no_grad()
def hardest_first(split: Source, model: nn.Module) -> list[int]:
    """The numbers of a split's samples, those first on which a classifier has the greatest loss.

    What a classifier is sure of is seldom lost by pruning it, so a race is over earlier where the
    other samples come first.

    Raises:
        ValueError: The samples have no labels.
    """
    if split.labels is None:
        raise ValueError("the samples have no labels; the loss on each of them needs labels")
    scores = first_tensor(Evaluator(split, precision="float32").outputs(model))
    losses = F.cross_entropy(scores, first_tensor(split.labels), reduction="none")
    order: list[int] = losses.argsort(descending=True, stable=True).tolist()
    return order
