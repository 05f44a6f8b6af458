"""An adjustment that fails leaves the repaired network."""

import json
from pathlib import Path

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.main import run_job

SHORT = ["base.epochs=1", "base.precision=float32", "env.precision=float32", "agent=uniform",
         "search.compare=[]", "report=false", "finetune.epochs=0", "adjust.epochs=2",
         "latency=false",
         "adjust.clip=null", "adjust.precision=float32"]  # fmt: skip


def test_an_adjustment_that_diverges_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rate in (("without", "epochs=0"), ("diverged", "learning_rate=1e30")):
        arguments = [*SHORT, f"adjust.{rate}", f"folder={tmp_path / name}"]
        assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    assert "the adjustment is given up, for the loss of epoch 1 is nan" in capsys.readouterr().out
    without, diverged = (
        json.loads((tmp_path / name / "metrics.json").read_text())["test_accuracies"]
        for name in ("without", "diverged")
    )
    assert without == diverged
