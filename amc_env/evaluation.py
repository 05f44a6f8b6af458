"""Class scores and accuracy on a fixed split: fast for rewards, exact for reports."""

from functools import partial
from math import ceil
from typing import get_args

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import evaluating
from amc_env.data import Split
from amc_env.folding import Fold, folded
from amc_env.precision import Choice, Format, Precision, fixed, measure


class Evaluator:
    """Computes class scores of networks on one split, which is held in memory.

    Args:
        split: The samples.
        batch: Number of samples in a forward pass.
        precision: ``float32``, or ``bfloat16`` for convolutions and linear layers; ``auto``
            measures on the first network which format runs fastest, and stays with it. A choice
            that was measured before holds as it is.
        folds: Batch norms to fold into convolutions, in every network that is run.

    Attributes:
        split: The samples.
        choice: The format in which networks run, and its measurement; None before the first one.

    Raises:
        ValueError: ``batch`` is less than 1, or the precision does not exist.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch: int = 100,
        precision: Precision | Choice = "auto",
        folds: tuple[Fold, ...] = (),
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; give at least 1")
        if not isinstance(precision, Choice) and precision not in get_args(Precision):
            raise ValueError(
                f"precision {precision!r} does not exist; choose {', '.join(get_args(Precision))}"
            )
        self.split = split
        self.choice = precision if isinstance(precision, Choice) else fixed(precision)
        self._folds = folds
        self._batch = batch
        self._inputs = (self.choice.format if self.choice else Format()).arrange(split.inputs)

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

        Where both are whole batches, its batches are some of this one's, so the class scores are
        the same to the last bit.
        """
        split = Split(inputs=self._inputs[start:stop], labels=self.split.labels[start:stop])
        return Evaluator(
            split, batch=self._batch, precision=self.choice or "auto", folds=self._folds
        )

    def choose(self, model: nn.Module) -> Choice:
        """The format in which this evaluator runs networks; measured on ``model`` if none is yet.

        Raises:
            ValueError: The output is not a matrix of class scores.
        """
        if self.choice is None:
            with evaluating(model):
                self.choice = measure(partial(_scores, model), self._inputs[: self._batch])
            self._inputs = self.choice.format.arrange(self._inputs)
        return self.choice

    def logits(self, model: nn.Module) -> Tensor:
        """Class scores (samples, classes), float32.

        Raises:
            ValueError: The output is not a matrix of class scores, or has too few classes.
        """
        computing = self.choose(model).format.computing(self.split.inputs.device)
        with evaluating(model):
            network = folded(model, self._folds)
        with evaluating(network), computing:
            scores = torch.cat(
                [_scores(network, x) for x in self._inputs.split(self._batch)]
            ).float()
        classes = int(self.split.labels.max()) + 1
        if scores.shape[1] < classes:
            raise ValueError(
                f"the network gives scores of {scores.shape[1]} classes, but there is a label "
                f"{classes - 1}; give labels from 0 to {scores.shape[1] - 1}"
            )
        return scores

    def accuracy(self, model: nn.Module) -> float:
        """Share of the samples that the network classifies correctly."""
        return accuracy_of(self.logits(model), self.split.labels)


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Share of the samples whose highest score is that of their own class."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def _scores(model: nn.Module, batch: Tensor) -> Tensor:
    output: object = model(batch)
    if not isinstance(output, Tensor) or output.dim() != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the network gives {given}; it must give scores (samples, classes)")
    return output
