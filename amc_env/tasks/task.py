"""The interface of a task: how outputs become tensors, the loss, and the metric."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amc_env.batches import Batch, tensors_in
from amc_env.metric import Metric
from amc_env.names import WithName


class Task(WithName, ABC):
    """What a network is trained for.

    A task of one's own has the two abstract methods. The others have defaults that fit most
    networks, and may be replaced too. All of them get the tensors that ``tensors`` returns, and the
    labels of the same samples as the data holds them.

    Attributes:
        name: What files and messages call it; the name of its class unless it says so.
        metric: What ``evaluate`` returns is called and shown like this.
        has_classes: Whether each sample has one class, its label; some criteria read it.
    """

    name: str
    metric: Metric = Metric(name="metric", is_share=False)
    has_classes: bool = False

    @abstractmethod
    def loss(self, outputs: Any, labels: Any) -> Tensor:
        """What training makes small: a mean over the samples, with its gradient."""

    @abstractmethod
    def evaluate(self, outputs: Any, labels: Any) -> float:
        """The metric on all samples together; a higher one is better."""

    def tensors(self, output: object) -> Batch:
        """What is read of a network's output, with the samples as first dimension of each tensor.

        By default the only tensor in the output, or a tuple of all that it holds.

        Raises:
            ValueError: The output does not hold it.
        """
        return tensors_of(output)

    def distance(self, outputs: Any, original: Any, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG002 (only classes have one)
        r"""How far outputs are from those of the original network, a mean over the samples.

        By default, summed over the tensors ``x`` of the outputs, ``y`` of the original,

        .. math:: \frac{\sum (x - y)^2}{\sum y^2}

        Args:
            outputs: Those of the network.
            original: Those of the original network. The distance is 0 where both are equal.
            temperature: Both are softened by it where they are class scores.
        """
        return relative_squares(outputs, original)

    def check_labels(self, labels: Batch | None, *, samples: int) -> None:  # noqa: ARG002
        """Refuse labels that are none of this task.

        Raises:
            ValueError: They are not.
        """
        if labels is None:
            raise ValueError(f"the task {self.name} needs the labels of its samples; give them")

    def check(self, outputs: Any, labels: Any) -> None:
        """Refuse outputs that do not fit the labels.

        Raises:
            ValueError: They do not.
        """

    def smoothed(self, smoothing: float) -> "Task":
        """This task with a share of each label's probability spread over all classes.

        Raises:
            ValueError: Its labels are no classes.
        """
        if smoothing:
            raise ValueError(
                f"smoothing is {smoothing}, but the labels of the task {self.name} are no classes; "
                "give smoothing=0"
            )
        return self


def tensors_of(output: object) -> Batch:
    """The only tensor in an output, or a tuple of all.

    Raises:
        ValueError: There is none.
    """
    found = tuple(tensors_in(output))
    if not found:
        raise ValueError(f"the network gives {type(output).__name__} without a tensor in it")
    return found[0] if len(found) == 1 else found


def part_of(output: object, part: str | int | None) -> object:
    """A part of a network's output by its key, field or index; the output itself for None.

    Raises:
        ValueError: There is no such part.
    """
    if part is None:
        return output
    try:
        if isinstance(output, Mapping) or isinstance(part, int):
            return output[part]  # type: ignore[index]
        return getattr(output, part)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the task reads {part!r} of the network's output, but this is a "
            f"{type(output).__name__} without it; give another output"
        ) from error


def relative_squares(outputs: Batch, original: Batch) -> Tensor:
    """Squared differences relative to the squares of the original, summed over tensors."""
    pairs = zip(tensors_in(outputs), tensors_in(original), strict=True)
    each = [
        (own - wanted).square().sum() / wanted.square().sum().clamp_min(torch.finfo().tiny)
        for own, wanted in pairs
    ]
    return torch.stack(each).sum()
