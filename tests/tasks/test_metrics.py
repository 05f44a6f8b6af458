"""The metrics and losses of tasks against hand calculations and scikit-learn."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score, r2_score
from torch import Tensor

from amc_env.tasks import Detection, Segmentation
from amc_env.tasks.detection import (
    NO_BOX,
    Boxes,
    decoded,
    found_boxes,
    labels_of_boxes,
    mean_average_precision,
)
from amc_env.tasks.regression import r_squared
from amc_env.tasks.segmentation import mean_iou


def test_mean_iou_by_hand() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    # Class 0: 1 of 2; class 1: 2 of 3; class 2 is nowhere.
    assert mean_iou(predicted, labels, classes=3) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_mean_iou_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, labels = torch.randint(4, (2, 500), generator=generator)
    expected = jaccard_score(labels.numpy(), predicted.numpy(), average="macro")
    assert mean_iou(predicted, labels, classes=4) == pytest.approx(expected)


def test_unlabelled_pixels_count_for_nothing() -> None:
    scores = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    labels, other = torch.tensor([[[0, 0], [255, 255]]]), torch.tensor([[[0, 0], [0, 0]]])
    task = Segmentation()
    assert task.evaluate(scores, labels) == 1.0
    assert task.loss(scores, labels) == pytest.approx(float(task.loss(scores, other)))
    with pytest.raises(ValueError, match="no pixel has a label"):
        task.evaluate(scores, torch.full((1, 2, 2), 255))


def test_scores_are_fitted_to_the_size_of_the_labels() -> None:
    small = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = F.interpolate(small, size=[8, 8], mode="bilinear").argmax(1)
    assert Segmentation().evaluate(small, labels) == 1.0


def test_r_squared_is_that_of_scikit_learn() -> None:
    predicted, labels = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    expected = r2_score(labels.numpy(), predicted.numpy(), multioutput="variance_weighted")
    assert r_squared(predicted, labels) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="the labels of the 4 samples do not vary"):
        r_squared(torch.zeros(4), torch.ones(4))


def image(*rows: tuple[float, ...]) -> Boxes:
    """Boxes of one class from rows of four sides and, where there is a fifth number, a score."""
    table = torch.tensor(rows).view(len(rows), -1)
    scores = table[:, 4] if table.shape[1] > 4 else None
    return Boxes(boxes=table[:, :4], classes=torch.zeros(len(rows)).long(), scores=scores)


def test_mean_average_precision_by_hand() -> None:
    labels = [image((0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9))]
    exact = [image((0.0, 0.0, 0.4, 0.4, 0.9), (0.5, 0.5, 0.9, 0.9, 0.8))]
    assert mean_average_precision(exact, labels) == pytest.approx(1.0)
    # One of two is found: precision 1 up to a recall of 0.5, which is 51 of COCO's 101 recalls.
    half = [image((0.0, 0.0, 0.4, 0.4, 0.9))]
    assert mean_average_precision(half, labels) == pytest.approx(51 / 101)
    # Shifted by a tenth of its side, a box overlaps by 9/11, enough for 7 of the 10 thresholds.
    shifted = [image((0.04, 0.0, 0.44, 0.4, 0.9), (0.5, 0.5, 0.9, 0.9, 0.8))]
    at_least = mean_average_precision(shifted, labels)
    assert 0.7 < at_least < 1.0
    with pytest.raises(ValueError, match="no image has a box"):
        mean_average_precision(exact, [Boxes(boxes=torch.zeros(0, 4), classes=torch.zeros(0))])


def test_without_torchmetrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=r"needs torchmetrics and pycocotools.*amc-env\[detection\]"
    ):
        mean_average_precision([], [])


def cell(*, row: int, column: int, kind: int, sides: Tensor) -> Tensor:
    """A map (1, 6, 4, 4) of two classes in which one cell has found an object."""
    maps = torch.full((1, 6, 4, 4), -20.0)
    maps[0, 2:, row, column] = torch.expm1(sides).log()
    maps[0, kind, row, column] = 3.0
    return maps


def test_a_cell_s_numbers_are_distances_in_cells_from_its_centre() -> None:
    maps = cell(row=1, column=2, kind=1, sides=torch.tensor([1.0, 0.5, 0.5, 2.0]))
    (found,) = found_boxes(*decoded((maps,)))
    # The centre is at 2.5 and 1.5 of 4 cells.
    wanted = torch.tensor([[1.5, 1.0, 3.0, 3.5]]) / 4
    assert torch.allclose(found.boxes, wanted, atol=1e-6)
    assert found.classes.tolist() == [1]
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([float(torch.tensor(3.0).sigmoid())])
    logits, boxes = decoded((maps, maps))
    assert (logits.shape, boxes.shape) == ((1, 32, 2), (1, 32, 4))


def test_one_object_is_found_once() -> None:
    one = cell(row=1, column=1, kind=0, sides=torch.full((4,), 1.0))
    other = cell(row=1, column=2, kind=0, sides=torch.tensor([1.9, 1.0, 0.1, 1.0]))
    both = torch.where(other > -20, other, one)
    assert len(found_boxes(*decoded((both,)))[0].boxes) == 1


def test_labels_of_images_with_fewer_boxes_are_filled_up() -> None:
    none = Boxes(boxes=torch.zeros(0, 4), classes=torch.zeros(0))
    labels = labels_of_boxes([image((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.6, 0.6)), none])
    assert labels.shape == (2, 2, 5)
    assert labels[0, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert (labels[1, :, 0] == NO_BOX).all()
    assert labels_of_boxes([none]).shape == (1, 1, 5)


def test_boxes_belong_to_the_level_of_their_size() -> None:
    large, small = image((0.1, 0.1, 0.9, 0.9)), image((0.4, 0.4, 0.6, 0.6))
    levels = (torch.zeros(1, 5, 16, 16), torch.zeros(1, 5, 4, 4))
    for boxes, busy, idle in ((large, 1, 0), (small, 0, 1)):
        given = tuple(level.clone().requires_grad_() for level in levels)
        Detection().loss(given, labels_of_boxes([boxes])).backward()
        sides = [level.grad[:, 1:].abs().sum() for level in given if level.grad is not None]
        assert sides[busy] > 0
        assert sides[idle] == 0
