"""Detection: boxes with classes, by detectors without anchors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch, tensors_in
from amc_env.extras import need
from amc_env.metric import Metric
from amc_env.tasks.task import Task, part_of

Levels = tuple[Tensor, ...]

# A label is (class, left, top, right, bottom); rows of this class fill up images with fewer boxes.
NO_BOX = -1
# A box belongs to the level on which its longer side is nearest this many cells, and is to be found
# by the cells whose centre is within so many cells of its own.
_CELLS_ACROSS = 4.0
_NEAR = 1.5
_LEAST_SCORE = 0.05
_OVERLAP = 0.5
_MOST_BOXES = 100
_PIXELS = 1000.0
_PACKAGES = ("torchmetrics", "pycocotools")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes of one image.

    Attributes:
        boxes: (boxes, 4): left, top, right and bottom, as shares of the image's width and height.
        classes: (boxes,), whole numbers from 0.
        scores: (boxes,), the best first; None for labels.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    r"""Each sample has boxes with classes; the network gives a map of every level.

    A map is (samples, classes + 4, height, width): for each cell the logits of the classes, then
    how far the sides of the object at the cell's centre are to the left, top, right and bottom, in
    cells, each as the softplus of the number. Tian et al., "FCOS: Fully Convolutional One-Stage
    Object Detection", 2019. Labels are (samples, boxes, 5): class, left, top, right and bottom, the
    last four as shares of the image; rows of class -1 fill up. ``labels_of_boxes`` makes them.

    The loss is the focal loss of the classes (Lin et al., "Focal Loss for Dense Object Detection",
    2017) plus the generalised IoU loss of the boxes (Rezatofighi et al., "Generalized Intersection
    over Union", 2019), divided by the number of cells that are to find an object.

    Detectors of other kinds are tasks of their own, whose ``evaluate`` can use
    ``mean_average_precision``.

    Attributes:
        output: The key, field or index of the maps in the network's output; None where it holds no
            other tensor.
    """

    name = "detection"
    metric = Metric(name="mAP")
    output: str | int | None = None

    @override
    def tensors(self, output: object) -> Levels:
        levels = tuple(tensors_in(part_of(output, self.output)))
        if not levels or any(x.dim() != 4 or x.shape[1] < 5 for x in levels):
            given = ", ".join(str(tuple(x.shape)) for x in levels) or type(output).__name__
            raise ValueError(
                f"the network gives {given}; it must give maps (samples, classes + 4, height, "
                "width), or the task's option output must name them"
            )
        return levels

    @override
    def loss(self, outputs: Levels, labels: Tensor) -> Tensor:
        from torchvision.ops import sigmoid_focal_loss

        logits, boxes = decoded(outputs)
        owner = _owners(outputs, labels)
        is_object = owner >= 0
        mine = labels.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 5))
        classes = F.one_hot(mine[..., 0].long().clamp_min(0), logits.shape[2])
        wanted = (classes * is_object[..., None]).to(logits.dtype)
        objects = is_object.sum().clamp_min(1)
        by_class = sigmoid_focal_loss(logits, wanted, reduction="sum")
        by_box = _box_losses(boxes[is_object], mine[..., 1:][is_object].to(boxes.dtype))
        loss: Tensor = (by_class + by_box.sum()) / objects
        return loss

    @override
    def evaluate(self, outputs: Levels, labels: Tensor) -> float:
        return mean_average_precision(found_boxes(*decoded(outputs)), boxes_of_labels(labels))

    @override
    def distance(self, outputs: Levels, original: Levels, *, temperature: float = 1.0) -> Tensor:
        return difference(decoded(outputs), decoded(original), temperature=temperature)

    @override
    def check_labels(self, labels: Batch | None, *, samples: int) -> None:
        super().check_labels(labels, samples=samples)
        check_boxes(labels)

    @override
    def check(self, outputs: Levels, labels: Tensor) -> None:
        check_classes_of_boxes(labels, classes=outputs[0].shape[1] - 4)


def check_boxes(labels: object) -> None:
    """Refuse labels that are not boxes as ``Detection`` reads them.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 3 or labels.shape[2] != 5:
        given = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels are {given}; give (samples, boxes, 5): class, left, top, right and bottom "
            "as shares of the image, with class -1 in rows that hold no box"
        )
    corners = labels[labels[..., 0] != NO_BOX][:, 1:]
    if (corners[:, 2:] <= corners[:, :2]).any() or (corners < 0).any() or (corners > 1).any():
        raise ValueError(
            "a box ends before it begins or lies outside of its image; give left, top, right "
            "and bottom in this order, as shares of the image from 0 to 1"
        )


def check_classes_of_boxes(labels: Tensor, *, classes: int) -> None:
    """Refuse boxes of a class that maps of so many classes lack.

    Raises:
        ValueError: There is such a box.
    """
    greatest = int(labels[..., 0].max())
    if greatest >= classes:
        raise ValueError(
            f"the network gives maps of {classes} classes, but there is a box of class "
            f"{greatest}; give classes from 0 to {classes - 1}"
        )


def labels_of_boxes(images: Sequence[Boxes]) -> Tensor:
    """Labels (samples, boxes, 5) of the boxes in images, as ``Detection`` reads them."""
    most = max((len(image.boxes) for image in images), default=0)
    labels = torch.full((len(images), max(most, 1), 5), float(NO_BOX))
    for row, image in zip(labels, images, strict=True):
        row[: len(image.boxes), 0] = image.classes.to(row)
        row[: len(image.boxes), 1:] = image.boxes.to(row)
    return labels


def boxes_of_labels(labels: Tensor) -> list[Boxes]:
    """The boxes of each sample in labels (samples, boxes, 5)."""
    each = [rows[rows[:, 0] != NO_BOX] for rows in labels]
    return [Boxes(boxes=rows[:, 1:], classes=rows[:, 0].long()) for rows in each]


def decoded(levels: Levels) -> tuple[Tensor, Tensor]:
    """Logits (samples, cells, classes) and boxes (samples, cells, 4) of all levels."""
    logits, boxes = [], []
    for x in levels:
        cells = x.flatten(2).mT
        logits.append(cells[..., :-4])
        boxes.append(boxes_around(x, F.softplus(cells[..., -4:])))
    return torch.cat(logits, 1), torch.cat(boxes, 1)


def boxes_around(level: Tensor, sides: Tensor) -> Tensor:
    """Boxes (samples, cells, 4) whose sides are so many cells from the centre of each cell."""
    sides, centres = sides / _cells(level), _centres(level)
    return torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], 2)


def difference(
    outputs: tuple[Tensor, Tensor], original: tuple[Tensor, Tensor], *, temperature: float
) -> Tensor:
    r"""How far the classes are apart, and the boxes where the original sees an object.

    .. math:: \frac{1}{N} \sum_{n,i} \Big(\sum_k KL(p_{nik} \,\|\, q_{nik})
              + \max_k p_{nik} \, (1 - GIoU_{ni})\Big)

    ``p`` are the probabilities of class ``k`` in cell ``i`` by the original, softened by the
    temperature, ``q`` those of the network, and the generalised IoU compares their boxes there.

    Args:
        outputs: Logits and boxes of the network, as ``decoded`` gives them.
        original: Those of the original network.
        temperature: The logits are divided by it.
    """
    (own, boxes), (other, wanted) = outputs, original
    certainty = other.sigmoid().amax(2)
    own, other = own / temperature, other / temperature
    target = other.sigmoid()
    # The cross-entropy less its least value is the KL divergence.
    cross, least = (
        F.binary_cross_entropy_with_logits(x, target, reduction="sum") for x in (own, other)
    )
    apart = (certainty * _box_losses(boxes, wanted)).sum()
    total: Tensor = (cross - least) * temperature**2 + apart
    return total / len(own)


def found_boxes(
    logits: Tensor, boxes: Tensor, *, least: float = _LEAST_SCORE, overlap: float = _OVERLAP
) -> list[Boxes]:
    """The boxes that a network has found in each sample, each object once.

    Args:
        logits: (samples, cells, classes).
        boxes: (samples, cells, 4).
        least: Boxes of a smaller score are left out.
        overlap: Boxes that overlap a better one of their class by more than this are taken for the
            same object.
    """
    from torchvision.ops import batched_nms

    found = []
    for scores, corners in zip(logits.sigmoid(), boxes, strict=True):
        best, classes = scores.max(1)
        likely = best >= least
        best, classes, corners = best[likely], classes[likely], corners[likely]
        first = batched_nms(corners, best, classes, overlap)[:_MOST_BOXES]
        found.append(Boxes(boxes=corners[first], classes=classes[first], scores=best[first]))
    return found


def mean_average_precision(found: Sequence[Boxes], labels: Sequence[Boxes]) -> float:
    """COCO's mean average precision, over classes and over overlaps from 0.5 to 0.95.

    Lin et al., "Microsoft COCO: Common Objects in Context", 2014. It is computed by torchmetrics.

    Raises:
        ValueError: torchmetrics or pycocotools is not installed, or no image has a box.
    """
    need("the metric mAP", *_PACKAGES, extra="detection")
    if not any(len(image.boxes) for image in labels):
        raise ValueError("no image has a box, so there is no mAP; give labelled samples")
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision()
    metric.warn_on_many_detections = False
    metric.update([_plain(image) for image in found], [_plain(image) for image in labels])
    return float(metric.compute()["map"])


def _plain(image: Boxes) -> dict[str, Tensor]:
    """Boxes as torchmetrics reads them."""
    plain = {"boxes": image.boxes, "labels": image.classes}
    return plain if image.scores is None else {**plain, "scores": image.scores}


def _box_losses(boxes: Tensor, wanted: Tensor) -> Tensor:
    """1 less the generalised IoU of each pair of boxes."""
    from torchvision.ops import generalized_box_iou_loss

    # torchvision adds a small number to areas, which has to be small beside those of boxes.
    losses: Tensor = generalized_box_iou_loss(boxes * _PIXELS, wanted * _PIXELS)
    return losses


def _cells(level: Tensor) -> Tensor:
    """The number of cells across and down, twice, as sides of boxes are measured."""
    height, width = level.shape[2:]
    return level.new_tensor([width, height, width, height])


def _centres(level: Tensor) -> Tensor:
    """The centres of a level's cells (cells, 2), as shares of the image."""
    height, width = level.shape[2:]
    down = (torch.arange(height, device=level.device) + 0.5) / height
    across = (torch.arange(width, device=level.device) + 0.5) / width
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1).to(level.dtype)


@torch.no_grad()
def _owners(levels: Levels, labels: Tensor) -> Tensor:
    """Which box each cell is to find: its index (samples, cells), and -1 for none."""
    corners = labels[..., 1:]
    sizes = corners[..., 2:] - corners[..., :2]
    across = torch.stack([(sizes * _cells(x)[:2]).amax(-1) for x in levels], -1)
    # Rows without a box have no size.
    level_of = (across.clamp_min(1e-6) / _CELLS_ACROSS).log2().abs().argmin(-1)
    owners = []
    for number, x in enumerate(levels):
        offered = (labels[..., 0] != NO_BOX) & (level_of == number)
        owners.append(_owners_on(x, corners, offered))
    return torch.cat(owners, 1)


def _owners_on(level: Tensor, corners: Tensor, offered: Tensor) -> Tensor:
    """The smallest of the offered boxes that each cell of a level lies in the middle of."""
    centres = _centres(level)[:, None]
    boxes = corners[:, None]
    is_inside = ((centres > boxes[..., :2]) & (centres < boxes[..., 2:])).all(-1)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    is_near = ((centres - middle).abs() * _cells(level)[:2] < _NEAR).all(-1)
    may = is_inside & is_near & offered[:, None]
    areas = (corners[..., 2:] - corners[..., :2]).prod(-1)[:, None].expand(may.shape)
    least, owner = areas.masked_fill(~may, float("inf")).min(-1)
    return owner.masked_fill(least.isinf(), NO_BOX)
