"""The command, on what a fresh clone has."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from amc_env.models import build_model
from benchmarks.rivals.__main__ import main
from benchmarks.subjects import published, trained_digits


def test_it_runs_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--methods", "none", "--seeds", "0", "--calibration", "60", "--out", str(tmp_path)])
    page = (tmp_path / "rivals_digits_cnn.md").read_text()
    assert page in capsys.readouterr().out
    assert "| **ours, sequential** |" in page
    with (tmp_path / "rivals_digits_cnn.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Two repairs on two allocations, and two on two networks of torch-pruning.
    assert len(rows) == 8


def test_training_on_digits_is_repeatable() -> None:
    first, second = trained_digits(epochs=1), trained_digits(epochs=1)
    x = first.test.inputs
    assert torch.equal(first.model(x), second.model(x))


def archive(folder: Path, **more: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_x"] = generator.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        arrays[f"{part}_y"] = np.arange(6) % 3
    (folder / "data").mkdir()
    (folder / "models").mkdir()
    np.savez(folder / "data" / "cifar10_lossless.npz", **arrays, **more)
    torch.save(build_model("cifar_resnet20").state_dict(), folder / "models/cifar10_resnet20.th")


def test_all_images_are_original_where_nothing_else_is_said(tmp_path: Path) -> None:
    archive(tmp_path)
    subject = published(tmp_path, "cifar_resnet20")
    assert subject.is_original.all()
    assert (len(subject.train), len(subject.test)) == (6, 6)


def test_reencoded_images_are_told_apart_and_never_calibrated_on(tmp_path: Path) -> None:
    mask = np.arange(6) < 2
    archive(tmp_path, train_lossless=mask, test_lossless=mask)
    subject = published(tmp_path, "cifar_resnet20")
    assert subject.is_original.tolist() == mask.tolist()
    assert (len(subject.train), len(subject.test)) == (2, 6)
