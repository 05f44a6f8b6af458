"""Semantic segmentation: one class for each pixel."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.metric import Metric
from amc_env.tasks.classification import check_scores, distillation_loss
from amc_env.tasks.task import Task, part_of, tensors_of


@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """Each pixel has a class; the network gives scores (samples, classes, height, width).

    Labels are whole numbers (samples, height, width). Scores of another size are interpolated to
    that of the labels.

    Attributes:
        output: The key, field or index of the scores in the network's output; None where the output
            holds no other tensor.
        unlabelled: The label of pixels that count for nothing.
        smoothing: Share of a label's probability that the loss spreads over all classes.
    """

    name = "segmentation"
    metric = Metric(name="mean IoU")
    output: str | int | None = None
    unlabelled: int = 255
    smoothing: float = 0.0

    @override
    def tensors(self, output: object) -> Tensor:
        scores = tensors_of(part_of(output, self.output))
        if not isinstance(scores, Tensor) or scores.dim() != 4:
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(output).__name__
            raise ValueError(
                f"the network gives {given}; it must give scores (samples, classes, height, "
                "width), or the task's option output must name them"
            )
        return scores

    @override
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            _fitted(outputs, labels),
            labels,
            ignore_index=self.unlabelled,
            label_smoothing=self.smoothing,
        )

    @override
    def evaluate(self, outputs: Tensor, labels: Tensor) -> float:
        predicted = torch.cat(
            [
                _fitted(x, y).argmax(1)
                for x, y in zip(outputs.split(1), labels.split(1), strict=True)
            ]
        )
        counted = labels != self.unlabelled
        return mean_iou(predicted[counted], labels[counted], classes=outputs.shape[1])

    @override
    def distance(self, outputs: Tensor, original: Tensor, *, temperature: float = 1.0) -> Tensor:
        # Every pixel counts as a sample of its own.
        own, other = (x.movedim(1, -1).flatten(0, -2) for x in (outputs, original))
        return distillation_loss(own, other, temperature=temperature)

    @override
    def check_labels(self, labels: Batch | None, *, samples: int) -> None:
        super().check_labels(labels, samples=samples)
        is_map = isinstance(labels, Tensor) and labels.dim() == 3
        if not is_map or labels.dtype != torch.long:  # type: ignore[union-attr]
            given = (
                f"{labels.dtype} {tuple(labels.shape)}"
                if isinstance(labels, Tensor)
                else type(labels).__name__
            )
            raise ValueError(
                f"labels are {given}; give torch.int64 (samples, height, width), a class for each "
                "pixel"
            )

    @override
    def check(self, outputs: Tensor, labels: Tensor) -> None:
        known = labels[labels != self.unlabelled]
        if len(known) and int(known.min()) < 0:
            raise ValueError(f"label {int(known.min())} is negative; classes count from 0")
        check_scores(outputs, greatest=int(known.max()) if len(known) else 0)

    @override
    def smoothed(self, smoothing: float) -> "Segmentation":
        return replace(self, smoothing=smoothing)


def mean_iou(predicted: Tensor, labels: Tensor, *, classes: int) -> float:
    r"""Mean over classes of the intersection over union of predicted and labelled pixels.

    .. math:: \frac{1}{K} \sum_k \frac{n_{kk}}{\sum_j n_{kj} + \sum_j n_{jk} - n_{kk}}

    ``n_jk`` is the number of pixels of class ``j`` that are predicted as ``k``, over all samples.
    Classes that are neither labelled nor predicted anywhere are left out of the mean. Long et al.,
    "Fully Convolutional Networks for Semantic Segmentation", 2015, section 5.

    Raises:
        ValueError: There is no pixel.
    """
    if not labels.numel():
        raise ValueError("no pixel has a label, so there is no mean IoU; give labelled samples")
    pairs = torch.bincount(labels.flatten() * classes + predicted.flatten(), minlength=classes**2)
    table = pairs.view(classes, classes).double()
    union = table.sum(0) + table.sum(1) - table.diagonal()
    is_there = union > 0
    return float((table.diagonal()[is_there] / union[is_there]).mean())


def _fitted(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores of the size of the labels."""
    if scores.shape[2:] == labels.shape[1:]:
        return scores
    size = list(labels.shape[1:])
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
