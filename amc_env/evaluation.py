"""Class scores and accuracy on a fixed split: fast for rewards, exact for reports."""

from math import ceil
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import evaluating
from amc_env.data import Split
from amc_env.devices import fastest_layout, has_bfloat16_units

Precision = Literal["auto", "float32", "bfloat16"]


class Evaluator:
    """Computes class scores of networks on one split, which is held in memory.

    Args:
        split: The samples.
        batch: Number of samples in a forward pass.
        precision: ``float32``, or ``bfloat16`` for convolutions and linear layers; ``auto`` takes
            ``bfloat16`` where the device has units for it.

    Raises:
        ValueError: ``batch`` is less than 1, or the precision does not exist.
    """

    def __init__(self, split: Split, *, batch: int = 100, precision: Precision = "auto") -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; give at least 1")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision {precision!r} does not exist; choose {', '.join(get_args(Precision))}"
            )
        self.split = split
        self._is_fast = (
            has_bfloat16_units(split.inputs.device)
            if precision == "auto"
            else precision != "float32"
        )
        self._batch = batch
        self._inputs = fastest_layout(split.inputs)

    def whole_batches(self, samples: int) -> int:
        """The least number of first samples that is whole batches and at least ``samples``.

        Raises:
            ValueError: ``samples`` is less than 1.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; give at least 1")
        return min(ceil(samples / self._batch) * self._batch, len(self.split))

    def part(self, start: int, stop: int) -> "Evaluator":
        """An evaluator on the samples from ``start`` to before ``stop``.

        Where both are whole batches, its batches are some of this one's, so the class scores are
        the same to the last bit.
        """
        part = Split(inputs=self._inputs[start:stop], labels=self.split.labels[start:stop])
        precision: Precision = "bfloat16" if self._is_fast else "float32"
        return Evaluator(part, batch=self._batch, precision=precision)

    def logits(self, model: nn.Module) -> Tensor:
        """Class scores (samples, classes), float32.

        Raises:
            ValueError: The output is not a matrix of class scores, or has too few classes.
        """
        device = self._inputs.device.type
        with evaluating(model), torch.autocast(device, torch.bfloat16, enabled=self._is_fast):
            scores = torch.cat([_scores(model(x)) for x in self._inputs.split(self._batch)]).float()
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


def _scores(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the network gives {given}; it must give scores (samples, classes)")
    return output
