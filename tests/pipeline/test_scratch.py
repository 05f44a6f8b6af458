"""A run that also trains the found architecture from fresh weights."""

import csv
import json
from pathlib import Path

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.main import run_job

SHORT = ["base.epochs=3", "agent=uniform", "search.compare=[]", "adjust.epochs=0", "report=false",
         "latency=false",
         "finetune.epochs=1"]  # fmt: skip


@pytest.mark.parametrize("epochs", [0, 2])
def test_it_is_shown_beside_the_others_and_not_exported(tmp_path: Path, epochs: int) -> None:
    arguments = [*SHORT, f"scratch.epochs={epochs}", f"folder={tmp_path / 'run'}"]
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    accuracies, costs = metrics["test_accuracies"], metrics["network_flops"]
    assert ("uniform, from scratch" in accuracies) is bool(epochs)
    assert metrics["kept"] in ("repaired", "finetuned")
    with (tmp_path / "run" / "predictions.csv").open() as file:
        images = list(csv.DictReader(file))
    for name, accuracy in accuracies.items():
        right = sum(image[name] == image["label"] for image in images)
        assert right / len(images) == accuracy
        assert accuracy < metrics["test_top5_accuracies"][name] <= 1
    if epochs:
        assert costs["uniform, from scratch"] == costs["uniform, repaired"]
        assert 0.2 < accuracies["uniform, from scratch"] != accuracies["uniform, repaired"]
