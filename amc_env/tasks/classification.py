"""Classification: one class for each sample."""

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.metric import ACCURACY
from amc_env.tasks.task import Task, part_of


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Each sample has one class; the network gives scores (samples, classes).

    Attributes:
        output: The key, field or index of the scores in the network's output; None where the output
            is the scores.
        smoothing: Share of a label's probability that the loss spreads over all classes.
    """

    name = "classification"
    metric = ACCURACY
    has_classes = True
    output: str | int | None = None
    smoothing: float = 0.0

    @override
    def tensors(self, output: object) -> Tensor:
        scores = part_of(output, self.output)
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"the network gives {given}; it must give scores (samples, classes)")
        return scores

    @override
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=self.smoothing)

    @override
    def evaluate(self, outputs: Tensor, labels: Tensor) -> float:
        return int((outputs.argmax(1) == labels).sum()) / len(labels)

    @override
    def distance(self, outputs: Tensor, original: Tensor, *, temperature: float = 1.0) -> Tensor:
        return distillation_loss(outputs, original, temperature=temperature)

    @override
    def check_labels(self, labels: Batch | None, *, samples: int) -> None:
        super().check_labels(labels, samples=samples)
        check_classes(labels, samples=samples)

    @override
    def check(self, outputs: Tensor, labels: Tensor) -> None:
        check_scores(outputs, greatest=int(labels.max()))

    @override
    def smoothed(self, smoothing: float) -> "Classification":
        return replace(self, smoothing=smoothing)


def distillation_loss(scores: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    r"""How far class probabilities are from a teacher's, softened by a temperature.

    .. math:: T^2 \, \frac{1}{N} \sum_n KL\big(\mathrm{softmax}(t_n / T) \,\|\,
              \mathrm{softmax}(s_n / T)\big)

    ``s`` are the scores, ``t`` those of the teacher, ``T`` the temperature. The square keeps the
    gradients as large as at temperature 1. Hinton et al., "Distilling the Knowledge in a Neural
    Network", 2015, section 2.
    """
    own, other = ((x / temperature).log_softmax(1) for x in (scores, teacher))
    return F.kl_div(own, other, reduction="batchmean", log_target=True) * temperature**2


def check_classes(labels: Any, *, samples: int) -> None:
    """Refuse labels that are not one class for each sample.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"labels are a {type(labels).__name__}; give a tensor with one whole number for each "
            f"of {samples} samples"
        )
    if labels.shape != (samples,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)} and type {labels.dtype}; give one whole "
            f"number for each of {samples} samples"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"label {int(labels.min())} is negative; classes count from 0")


def check_scores(scores: Tensor, *, greatest: int) -> None:
    """Refuse scores (samples, classes, ...) that lack the class of the greatest label.

    Raises:
        ValueError: They do.
    """
    if scores.shape[1] <= greatest:
        raise ValueError(
            f"the network gives scores of {scores.shape[1]} classes, but there is a label "
            f"{greatest}; give labels from 0 to {scores.shape[1] - 1}"
        )
