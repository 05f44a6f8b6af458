"""Detection by Ultralytics' YOLO networks, with the loss that Ultralytics trains them by.

Ultralytics is imported for the loss alone, where it is installed; nothing of it is part of this
package. Its licence is the AGPL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.extras import need_package
from amc_env.metric import Metric
from amc_env.tasks.detection import (
    Levels,
    boxes_around,
    boxes_of_labels,
    check_boxes,
    check_classes_of_boxes,
    difference,
    found_boxes,
    mean_average_precision,
)
from amc_env.tasks.task import Task

# Those of Ultralytics' own validation.
_LEAST_SCORE = 0.001
_OVERLAP = 0.7
# A head whose boxes are one to one with the objects finds each of them once.
_NO_OVERLAP = 1.0


@dataclass(frozen=True, kw_only=True)
class Yolo(Task):
    r"""Boxes with classes, by a network of Ultralytics with the head ``Detect``.

    Outputs are a map (samples, 4 bins + classes, height, width) of each level: for each cell the
    logits of how far the sides of its object are to the left, top, right and bottom, in cells, and
    those of the classes. A distance is the mean of its distribution over the bins,

    .. math:: d = \sum_{i=0}^{b-1} i \, \mathrm{softmax}(z)_i

    Li et al., "Generalized Focal Loss", 2020, section 3.2. With one bin the number is the distance.
    Networks without non-maximum suppression, such as YOLO26, have the maps of both heads, the one
    that boxes are read from last; the loss weighs both as Ultralytics' training begins. Labels are
    those of ``Detection``.

    Attributes:
        strides: Pixels across a cell of each level.
        bins: Numbers of a distribution, which Ultralytics calls ``reg_max``.
    """

    name = "yolo"
    metric = Metric(name="mAP")
    strides: Sequence[int] = (8, 16, 32)
    bins: int = 16

    def __post_init__(self) -> None:
        # Settings give a list, and a task is compared with others.
        object.__setattr__(self, "strides", tuple(self.strides))
        if not self.strides or min(self.strides) < 1 or self.bins < 1:
            raise ValueError(
                f"strides are {self.strides} and bins {self.bins}; give at least one stride, and "
                "whole numbers from 1"
            )

    @override
    def tensors(self, output: object) -> Levels:
        predictions = output[1] if isinstance(output, tuple) and len(output) == 2 else output
        if not isinstance(predictions, Mapping):
            raise ValueError(
                f"the network gives {type(output).__name__}; it must be a detector of Ultralytics, "
                "which gives the mapping of boxes, scores and feats"
            )
        heads = [predictions[name] for name in ("one2many", "one2one") if name in predictions]
        return tuple(level for head in heads or [predictions] for level in self._levels(head))

    @override
    def loss(self, outputs: Levels, labels: Tensor) -> Tensor:
        need_package("the loss of YOLO networks", "ultralytics")
        from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

        heads = self._heads(tuple(x.float() for x in outputs))
        has_two = len(heads) == 2
        criterion = (E2ELoss if has_two else v8DetectionLoss)(self._as_network(outputs[0]))
        predictions = [self._predictions(head) for head in heads]
        given = dict(zip(("one2many", "one2one"), predictions, strict=True)) if has_two else None
        losses, _ = criterion(given or predictions[0], _targets(labels))
        total: Tensor = losses.sum() / len(labels)
        return total

    @override
    def evaluate(self, outputs: Levels, labels: Tensor) -> float:
        heads = self._heads(outputs)
        overlap = _OVERLAP if len(heads) == 1 else _NO_OVERLAP
        found = found_boxes(*self._decoded(heads[-1]), least=_LEAST_SCORE, overlap=overlap)
        return mean_average_precision(found, boxes_of_labels(labels))

    @override
    def distance(self, outputs: Levels, original: Levels, *, temperature: float = 1.0) -> Tensor:
        both = zip(self._heads(outputs), self._heads(original), strict=True)
        apart = [
            difference(self._decoded(own), self._decoded(other), temperature=temperature)
            for own, other in both
        ]
        return torch.stack(apart).mean()

    @override
    def check_labels(self, labels: Batch | None, *, samples: int) -> None:
        super().check_labels(labels, samples=samples)
        check_boxes(labels)

    @override
    def check(self, outputs: Levels, labels: Tensor) -> None:
        check_classes_of_boxes(labels, classes=outputs[0].shape[1] - 4 * self.bins)

    def _levels(self, head: Mapping[str, Any]) -> Levels:
        """What a head gives as one map of each level."""
        boxes, scores, features = (head.get(name) for name in ("boxes", "scores", "feats"))
        if boxes is None or scores is None or features is None:
            raise ValueError(
                f"the network gives {', '.join(head)}; it must be a detector of Ultralytics, "
                "which gives boxes, scores and feats"
            )
        if boxes.shape[1] != 4 * self.bins or len(features) != len(self.strides):
            raise ValueError(
                f"the network gives {boxes.shape[1]} numbers for a box on {len(features)} levels, "
                f"but the task has {self.bins} bins and strides {tuple(self.strides)}; give "
                f"task.options.bins={boxes.shape[1] // 4}, and a stride for each level"
            )
        sizes = [level.shape[2:] for level in features]
        parts = torch.cat([boxes, scores], 1).split([size.numel() for size in sizes], 2)
        return tuple(x.unflatten(2, size) for x, size in zip(parts, sizes, strict=True))

    def _heads(self, levels: Levels) -> list[Levels]:
        count = len(self.strides)
        return [levels[at : at + count] for at in range(0, len(levels), count)]

    def _predictions(self, levels: Levels) -> dict[str, Any]:
        """Maps as the loss of Ultralytics reads them."""
        cells = torch.cat([x.flatten(2) for x in levels], 2)
        boxes, scores = cells.split([4 * self.bins, cells.shape[1] - 4 * self.bins], 1)
        # Of the features it reads the sizes alone.
        return {"boxes": boxes, "scores": scores, "feats": list(levels)}

    def _as_network(self, level: Tensor) -> SimpleNamespace:
        """What the loss of Ultralytics reads of a network."""
        from ultralytics.cfg import get_cfg

        classes = level.shape[1] - 4 * self.bins
        strides = torch.tensor(self.strides, dtype=torch.float, device=level.device)
        head = SimpleNamespace(stride=strides, nc=classes, reg_max=self.bins)
        return SimpleNamespace(parameters=lambda: iter([level]), args=get_cfg(), model=[head])

    def _decoded(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """Logits (samples, cells, classes) and boxes (samples, cells, 4) of all levels."""
        logits, boxes = [], []
        for x in levels:
            sides, scores = x.flatten(2).mT.split([4 * self.bins, x.shape[1] - 4 * self.bins], 2)
            logits.append(scores)
            boxes.append(boxes_around(x, self._distances(sides)))
        return torch.cat(logits, 1), torch.cat(boxes, 1)

    def _distances(self, sides: Tensor) -> Tensor:
        """Distances (samples, cells, 4) from (samples, cells, 4 bins)."""
        if self.bins == 1:
            return sides
        numbers = torch.arange(self.bins, dtype=sides.dtype, device=sides.device)
        distances: Tensor = sides.unflatten(2, (4, self.bins)).softmax(3) @ numbers
        return distances


def _targets(labels: Tensor) -> dict[str, Tensor]:
    """Labels as the loss of Ultralytics reads them: for each box its image, middle and size."""
    is_box = labels[..., 0] >= 0
    rows = labels[is_box]
    corners = rows[:, 1:]
    middles, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return {
        "batch_idx": is_box.nonzero()[:, 0],
        "cls": rows[:, 0],
        "bboxes": torch.cat([middles, sizes], 1),
    }
