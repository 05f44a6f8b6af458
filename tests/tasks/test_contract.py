"""Every task keeps the same law."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from amc_env.tasks import TASK, TASKS, Classification, Regression, Segmentation, Task, Yolo
from amc_env.tasks.detection import Boxes, labels_of_boxes


class Own(Task):
    """What a user writes."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - labels).abs().mean()

    def evaluate(self, outputs: Tensor, labels: Tensor) -> float:
        return -float(self.loss(outputs, labels))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a network gives for a task, its labels, and an output that could not be better."""

    task: Task
    given: Any
    labels: Tensor
    best: Any


def boxes() -> Tensor:
    left, right = [0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 0.5]
    one = Boxes(boxes=torch.tensor([left, right]), classes=torch.tensor([0, 1]))
    none = Boxes(boxes=torch.zeros(0, 4), classes=torch.zeros(0).long())
    return labels_of_boxes([one, none, one])


def perfect(labels: Tensor) -> Tensor:
    """The map of two classes in which every cell in the middle of a box tells it exactly."""
    size = 8
    maps = torch.zeros(len(labels), 6, size, size)
    maps[:, :2] = -20.0
    y, x = torch.meshgrid(*[torch.arange(size) + 0.5] * 2, indexing="ij")
    for image, rows in zip(maps, labels, strict=True):
        for kind, *shares in rows[rows[:, 0] >= 0].tolist():
            left, top, right, bottom = (size * share for share in shares)
            middle = ((left + right) / 2, (top + bottom) / 2)
            where = ((x - middle[0]).abs() < 1.5) & ((y - middle[1]).abs() < 1.5)
            sides = torch.stack([x - left, y - top, right - x, bottom - y])[:, where]
            # The inverse of the softplus.
            image[2:, where] = torch.expm1(sides.double()).log().float()
            image[int(kind), where] = 20.0
    return maps


def half_cells() -> Tensor:
    """Boxes around three by three cells, whose sides are whole cells from every cell's centre."""
    one = Boxes(boxes=torch.tensor([[0.5, 0.5, 4.5, 4.5]]) / 8, classes=torch.tensor([0]))
    other = Boxes(boxes=torch.tensor([[2.5, 3.5, 6.5, 7.5]]) / 8, classes=torch.tensor([1]))
    return labels_of_boxes([one, other, one])


def perfect_head(labels: Tensor) -> dict[str, Any]:
    """What a head of Ultralytics gives in which every cell within a box tells it exactly."""
    boxes, scores = torch.zeros(len(labels), 4, 16, 8, 8), torch.full((len(labels), 2, 8, 8), -40.0)
    for image, rows, own in zip(boxes, labels, scores, strict=True):
        for kind, *shares in rows.tolist():
            left, top, right, bottom = (8 * share for share in shares)
            for y in range(8):
                for x in range(8):
                    sides = (x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5)
                    if min(sides) > 0:
                        own[int(kind), y, x] = 40.0
                        for side, cells in enumerate(sides):
                            image[side, round(cells), y, x] = 40.0
    return {"boxes": boxes.flatten(3).flatten(1, 2), "scores": scores.flatten(2),
            "feats": [torch.zeros(len(labels), 3, 8, 8)]}  # fmt: skip


def cases() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    classes, pixels, numbers = torch.arange(6) % 3, (drawn(4, 6, 6) > 0).long(), drawn(5, 2)
    return {
        "classification": Case(
            task=Classification(),
            given=drawn(6, 3),
            labels=classes,
            best=torch.eye(3)[classes] * 50,
        ),
        "segmentation": Case(
            task=Segmentation(),
            given={"out": drawn(4, 2, 6, 6)},
            labels=pixels,
            best={"out": 50 * torch.stack([1.0 - pixels, 1.0 * pixels], 1)},
        ),
        "regression": Case(
            task=Regression(),
            given=(drawn(5, 2),),
            labels=numbers,
            best=[numbers],
        ),
        "detection": Case(
            task=TASK.make("detection"),
            given=[drawn(3, 6, 8, 8)],
            labels=boxes(),
            best=[perfect(boxes())],
        ),
        "yolo": Case(
            task=Yolo(strides=(8,)),
            given={
                "boxes": drawn(3, 64, 64),
                "scores": drawn(3, 2, 64),
                "feats": [torch.zeros(3, 3, 8, 8)],
            },
            labels=half_cells(),
            best=perfect_head(half_cells()),
        ),
        "own": Case(task=Own(), given=drawn(5, 2), labels=numbers, best=numbers),
    }


CASES = cases()


# Ultralytics takes seconds to import, and is not everywhere.
WITH_SLOW_YOLO = [
    pytest.param(case, id=name, marks=[pytest.mark.slow] if name == "yolo" else [])
    for name, case in CASES.items()
]


def test_every_task_has_a_case() -> None:
    assert {*CASES} == {*TASKS, "own"}


@pytest.mark.parametrize("case", WITH_SLOW_YOLO)
def test_the_loss_is_one_finite_number_with_a_gradient_and_small_for_the_best(case: Case) -> None:
    if case.task.name == "yolo":
        pytest.importorskip("ultralytics", reason="the loss is that of ultralytics")
    outputs = case.task.tensors(case.given)
    leaves = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    for leaf in leaves:
        leaf.requires_grad_()
    loss = case.task.loss(outputs, case.labels)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
    for leaf in leaves:
        leaf.requires_grad_(requires_grad=False)
    assert case.task.loss(case.task.tensors(case.best), case.labels) < 1e-3 < loss


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_metric_is_a_number_and_greatest_for_the_best(case: Case) -> None:
    given, best = (
        case.task.evaluate(case.task.tensors(x), case.labels) for x in (case.given, case.best)
    )
    assert type(given) is type(best) is float
    assert given < best
    assert best == pytest.approx(1.0 if case.task.name != "Own" else 0.0)
    assert case.task.metric.text(best) in ("100.00%", "1.0000", "-0.0000")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_distance_is_zero_for_equal_outputs_alone(case: Case, temperature: float) -> None:
    given, best = case.task.tensors(case.given), case.task.tensors(case.best)
    assert float(case.task.distance(best, best, temperature=temperature)) == pytest.approx(
        0, abs=1e-4
    )
    assert float(case.task.distance(given, best, temperature=temperature)) > 1e-2


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_its_own_labels_are_taken_and_none_are_refused(case: Case) -> None:
    case.task.check_labels(case.labels, samples=len(case.labels))
    case.task.check(case.task.tensors(case.given), case.labels)
    with pytest.raises(ValueError, match=f"the task {case.task.name} needs the labels"):
        case.task.check_labels(None, samples=3)


@pytest.mark.parametrize("name", ["regression", "detection", "own"])
def test_labels_that_are_no_classes_are_not_smoothed(name: str) -> None:
    assert CASES[name].task.smoothed(0.0) is CASES[name].task
    with pytest.raises(ValueError, match=r"smoothing is 0.1, but the labels of the task"):
        CASES[name].task.smoothed(0.1)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("classification", torch.zeros(4), "type torch.float32; give one whole number"),
        ("classification", torch.tensor([0, -1, 0, 0]), "label -1 is negative"),
        ("classification", {"a": torch.zeros(4)}, "labels are a dict; give a tensor"),
        ("segmentation", torch.zeros(4).long(), r"give torch.int64 \(samples, height, width\)"),
        ("segmentation", torch.zeros(4, 2, 2), r"labels are torch.float32 \(4, 2, 2\)"),
        ("regression", torch.tensor([0.0, float("nan")]), "give a tensor of finite numbers"),
        ("yolo", torch.zeros(4, 4), r"labels are \(4, 4\); give \(samples, boxes, 5\)"),
        ("detection", torch.zeros(4, 4), r"labels are \(4, 4\); give \(samples, boxes, 5\)"),
        ("detection", torch.tensor([[[0, 0.5, 0.5, 0.2, 0.7]]]), "a box ends before it begins"),
        ("detection", torch.tensor([[[0, 0.5, 0.5, 20.0, 70.0]]]), "lies outside of its image"),
    ],
)
def test_labels_of_another_task_are_refused(name: str, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[name]().check_labels(labels, samples=4)


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("classification", torch.zeros(2, 3), torch.tensor([0, 3]), "scores of 3 classes, but"),
        ("segmentation", torch.zeros(1, 2, 1, 1), torch.tensor([[[2]]]), "scores of 2 classes"),
        ("segmentation", torch.zeros(1, 2, 1, 1), torch.tensor([[[-1]]]), "label -1 is negative"),
        ("regression", torch.zeros(2, 3), torch.zeros(2, 2), "gives 3 numbers for a sample, but"),
        ("detection", (torch.zeros(1, 5, 1, 1),), boxes(), "maps of 1 classes, but there is a box"),
        ("yolo", (torch.zeros(1, 65, 1, 1),), boxes(), "maps of 1 classes, but there is a box"),
    ],
)
def test_outputs_that_do_not_fit_the_labels_are_refused(
    name: str, outputs: Any, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[name]().check(outputs, labels)


@pytest.mark.parametrize(
    ("task", "output", "message"),
    [
        (Classification(), (torch.zeros(1, 2),), "the network gives tuple; it must give scores"),
        (Classification(output="logits"), {"scores": 1}, "reads 'logits' of the network's output"),
        (Classification(output=1), [3], "reads 1 of the network's output, but this is a list"),
        (Segmentation(), {"out": torch.zeros(2, 2)}, r"the network gives \(2, 2\); it must give"),
        (Regression(), (torch.zeros(2), torch.zeros(2)), "gives tuple with several tensors"),
        (Yolo(), torch.zeros(1), "gives Tensor; it must be a detector of Ultralytics"),
        (Yolo(), {"boxes": torch.zeros(1)}, "the network gives boxes; it must be a detector of"),
        (
            Yolo(),
            {"boxes": torch.zeros(1, 4, 1), "scores": torch.zeros(1, 2, 1), "feats": [1, 1, 1]},
            "gives 4 numbers for a box on 3 levels, but the task has 16 bins",
        ),
        (Own(), None, "the network gives NoneType without a tensor in it"),
    ],
)
def test_outputs_without_what_the_task_reads_are_refused(
    task: Task, output: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        task.tensors(output)


def test_a_part_is_read_by_key_field_or_index() -> None:
    scores = torch.zeros(2, 3)
    for part, output in (("a", {"a": scores}), ("a", SimpleNamespace(a=scores)), (1, [0, scores])):
        assert Classification(output=part).tensors(output) is scores
