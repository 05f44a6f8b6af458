"""A run of several processes that ``torchrun`` starts is one run, with larger batches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from amc_env.pipeline import together
from amc_env.pipeline.together import launched
from amc_env.studies.main import main as command

ROOT = Path(__file__).resolve().parents[2]
# LeNet-5 has no batch norm, whose statistics would be of a process's own images. More steps for few
# images would be another number: every process is left 8 images of a step.
GIVEN = [
    "model=lenet5", "data=synthetic", "data.options.channels=1", "data.options.size=28",
    "data.options.classes=4", "data.options.train=120", "data.options.test=20",
    "agent=uniform", "search.episodes=1", "search.compare=[]", "split.calibration=40",
    "split.validation=30", "split.selection=20", "base.epochs=1", "adjust.epochs=1",
    "finetune.epochs=1", "env.precision=float32", "base.precision=float32",
    "finetune.precision=float32", "adjust.min_steps=1", "finetune.min_steps=1", "latency=false",
    "report=false",
]  # fmt: skip


def batches(size: int) -> list[str]:
    return [f"{section}.batch={size}" for section in ("base", "adjust", "finetune")]


@pytest.mark.slow
def test_two_processes_end_in_the_network_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = {
        "two": [*launch, "train_agent.py", *batches(6)],
        "one": ["train_agent.py", *batches(12)],
    }
    found = {}
    for name, start in both.items():
        done = subprocess.run(
            [sys.executable, *start, *GIVEN, f"folder={tmp_path}/{name}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # One process alone writes and speaks.
        assert done.stdout.count("writing to") == 1
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found[name] = metrics["kept"], load_file(tmp_path / name / "pruned.safetensors")
    (kept, two), (same, one) = found["two"], found["one"]
    assert kept == same
    assert two.keys() == one.keys()
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-4


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == 1
    together.begin()
    together.dismiss()


def test_a_study_is_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(["study=capacity_rates", "scale=smoke"]) == 1
    assert "torchrun trains single runs together, and no studies" in capsys.readouterr().err
