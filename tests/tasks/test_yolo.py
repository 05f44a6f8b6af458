"""Detectors of Ultralytics from their own files, pruned, and back to files of their own."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from amc_env import PruningData
from amc_env.agents import search
from amc_env.data.datasets import Dataset, load_dataset
from amc_env.env.settings import EnvSettings, RepairSettings
from amc_env.evaluation import Evaluator
from amc_env.export.formats import export
from amc_env.export.yolo import write_checkpoint
from amc_env.models import find_model
from amc_env.policy import ModelSource, PrunedFacts, save_pruned
from amc_env.tasks import Yolo
from amc_env.training import TrainingSettings, fit_
from benchmarks.tasks.shapes import SHAPES, draw, write_yolo

NEEDS_IT = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed"
)
# Ultralytics and what it imports warn of their own plans.
QUIET = pytest.mark.filterwarnings("ignore")
NANO = "yolo11n.yaml"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("shapes"), train=64, val=16)


@pytest.fixture(scope="module")
def data(described: Path) -> Dataset:
    return load_dataset("yolo", {"path": str(described), "size": 64})


def fresh(name: str = NANO) -> nn.Module:
    torch.manual_seed(0)
    return find_model(name, {"nc": len(SHAPES)}).model


@NEEDS_IT
@QUIET
@pytest.mark.slow
def test_images_and_boxes_are_those_that_were_written(data: Dataset) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(generator, size=64) for _ in range(64)]
    # Files are read in the order of their names, not of their numbers.
    order = sorted(range(64), key=lambda number: f"{number}.png")
    for image, rows, number in zip(data.train.inputs, data.train.labels, order, strict=True):
        wanted = drawn[number]
        assert (image - (wanted.image / 6 + 0.5).clamp(0, 1)).abs().max() < 1 / 255
        found = rows[rows[:, 0] >= 0]
        assert found[:, 0].tolist() == wanted.boxes.classes.tolist()
        assert torch.allclose(found[:, 1:], wanted.boxes.boxes, atol=1e-5)
    assert len(data.test) == 16


@NEEDS_IT
@QUIET
@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [(NANO, Yolo()), ("yolo26n.yaml", Yolo(bins=1))])
def test_the_loss_is_that_of_ultralytics(name: str, task: Yolo, data: Dataset) -> None:
    from ultralytics.cfg import get_cfg

    model = fresh(name).train()
    model.args = get_cfg()
    few = data.train.take(slice(4))
    predictions = model(few.inputs)
    is_box = few.labels[..., 0] >= 0
    left, top, right, bottom = few.labels[is_box][:, 1:].unbind(1)
    middles_and_sizes = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    batch = {
        "img": few.inputs,
        "batch_idx": is_box.nonzero()[:, 0],
        "cls": few.labels[is_box][:, :1],
        "bboxes": torch.stack(middles_and_sizes, 1),
    }
    wanted = model.loss(batch, predictions)[0].sum() / 4
    assert float(task.loss(task.tensors(predictions), few.labels)) == pytest.approx(
        float(wanted), rel=1e-5
    )


@NEEDS_IT
@QUIET
@pytest.mark.slow
def test_it_is_pruned_and_ultralytics_goes_on_with_it(
    described: Path, data: Dataset, tmp_path: Path
) -> None:
    task, model = Yolo(), fresh()
    training = TrainingSettings(
        epochs=2, learning_rate=0.02, batch=16, warmup=0.1, clip=10.0, precision="float32"
    )
    fit_(model, data.train, training, task=task)
    parts = PruningData.of_training(
        data.train, test=data.test, calibration=24, validation=24, selection=0
    )
    found = search(
        model,
        calibration=parts.calibration,
        validation=parts.validation,
        budget=0.5,
        agent="uniform",
        reward="loss",
        task=task,
        settings=EnvSettings(precision="float32", repair=RepairSettings(sampled_positions=8)),
    )
    assert found.best.flops_ratio <= 0.5
    judge = Evaluator(data.test, precision="float32", task=task)
    original, masked, repaired = (
        judge.outputs(network) for network in (model, found.policy.apply(model), found.compact)
    )
    # The repair closes most of the gap between the masked network and the original.
    gap = float(task.distance(masked, original))
    assert float(task.distance(repaired, original)) < 0.5 * gap
    source = ModelSource(name=NANO, options={"nc": len(SHAPES)})
    policy = found.policy.model_copy(update={"source": source})
    save_pruned(tmp_path, policy, found.compact, PrunedFacts(macs=0))
    (written,) = export(tmp_path, ["yolo"], out=tmp_path, model=NANO)
    goes_on_with(written, found.compact, described, data)


def goes_on_with(path: Path, compact: nn.Module, described: Path, data: Dataset) -> None:
    """Load a checkpoint, predict, train further and export, all by Ultralytics."""
    from ultralytics import YOLO

    from amc_env.export.yolo_trainer import PrunedTrainer

    image = data.test.inputs[:1]
    network = YOLO(path)
    with torch.no_grad():
        assert torch.equal(network.model(image)[0], compact(image)[0])
    (seen,) = network.predict(image, imgsz=64, verbose=False, conf=0.0)
    assert len(seen.boxes) > 0
    shapes = {name: value.shape for name, value in compact.state_dict().items()}
    network = YOLO(path)
    network.train(
        trainer=PrunedTrainer, data=str(described), epochs=1, imgsz=64, batch=16, workers=0,
        plots=False, project=str(path.parent), name="further", device="cpu",
    )  # fmt: skip
    trained = YOLO(path.parent / "further" / "weights" / "last.pt")
    assert {name: x.shape for name, x in trained.model.state_dict().items()} == shapes
    first = "model.0.conv.weight"
    assert not torch.equal(trained.model.state_dict()[first], compact.state_dict()[first])
    program = torch.jit.load(YOLO(path).export(format="torchscript", imgsz=64))
    with torch.no_grad():
        assert torch.allclose(program(image), compact(image)[0], rtol=1e-3, atol=1e-2)


@NEEDS_IT
@QUIET
@pytest.mark.slow
def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for the task 'classify'; only those that detect"):
        find_model("yolo11n-cls.yaml")
    with pytest.raises(ValueError, match=r"there is no checkpoint no\.pt"):
        find_model("no.pt")
    with pytest.raises(ValueError, match=r"no\.yaml is no architecture of Ultralytics"):
        find_model("no.yaml")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no checkpoint of Ultralytics"):
        find_model(str(tmp_path / "bad.pt"))
    with pytest.raises(ValueError, match="classes of its own; leave nc out"):
        find_model(str(tmp_path / "bad.pt"), {"nc": 3})


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("the model yolo11n.yaml", lambda: find_model(NANO)),
        ("the data set yolo", lambda: load_dataset("yolo", {"path": "data.yaml"})),
        ("the loss of YOLO networks", lambda: Yolo().loss((torch.zeros(1),), torch.zeros(1, 1, 5))),
        ("the format yolo", lambda: write_checkpoint(SimpleNamespace(), Path())),
    ],
)
def test_without_ultralytics_the_command_that_installs_it_is_told(
    what: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=f"^{what} needs ultralytics, which is not installed; install it: pip "
    ):
        make()


@pytest.mark.parametrize(
    "options", [{"strides": ()}, {"strides": (0, 8)}, {"strides": (8,), "bins": 0}]
)
def test_numbers_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give at least one stride, and whole numbers from 1"):
        Yolo(**options)
