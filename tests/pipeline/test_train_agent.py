"""The command itself, from data to files, on the digits."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_model

from amc_env import Policy
from amc_env.data.datasets import digits
from amc_env.evaluation import Evaluator
from amc_env.models import build_model

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["base.epochs=3", "finetune.epochs=1", "search.episodes=6", "search.compare=[uniform]",
         "agent.options.warmup_episodes=3"]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_agent.py"), *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    finished = run(*QUICK, f"hydra.run.dir={folder}", "seed=3")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    named = [
        f"{agent}, {stage}" for agent in ("ddpg", "uniform") for stage in ("pruned", "repaired")
    ]
    for word in (*named, "original", "ddpg, finetuned", "MACs"):
        assert word in finished.stdout
    return folder


@pytest.mark.slow
def test_a_run_leaves_its_files(done: Path) -> None:
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["seed"] == 3
    assert metrics["episodes"] == 6
    assert metrics["flops_ratio"] <= 0.5
    assert metrics["is_complete"]
    assert set(metrics["episode_seconds"]) == {"select", "compact", "repair", "evaluate"}
    assert sum(metrics["episode_seconds"].values()) * 6 < metrics["search_seconds"]
    for name in ("baseline", "pruned", "repaired", "finetuned"):
        assert 0 <= metrics[f"{name}_accuracy"] <= 1
    with (done / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert max(float(row["reward"]) for row in rows) == pytest.approx(metrics["reward"])
    assert list((done / "tensorboard").rglob("events*"))
    assert "episodes: 6" in (done / "config.yaml").read_text()
    assert not list(done.glob(".*.part"))


@pytest.mark.slow
def test_policy_and_weights_give_the_accuracy_told(done: Path) -> None:
    compact = Policy.load(done / "policy.json").apply(build_model("digits_cnn").eval())
    load_model(compact, done / "pruned.safetensors")
    metrics = json.loads((done / "metrics.json").read_text())
    test = Evaluator(digits().test, precision="float32")
    assert test.accuracy(compact.eval()) == metrics[f"{metrics['kept']}_accuracy"]
    assert sum(p.numel() for p in compact.parameters()) == metrics["params"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(done: Path, tmp_path: Path) -> None:
    again = run(*QUICK, f"hydra.run.dir={tmp_path}", "seed=3")
    assert again.returncode == 0
    assert (tmp_path / "policy.json").read_text() == (done / "policy.json").read_text()
    first, second = (
        json.loads((folder / "metrics.json").read_text()) for folder in (done, tmp_path)
    )
    assert first["test_accuracies"] == second["test_accuracies"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_best_so_far(ending: signal.Signals, tmp_path: Path) -> None:
    arguments = [*QUICK, "search.episodes=100000", f"hydra.run.dir={tmp_path}"]
    process = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the tests run in the background, a shell has told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    # TensorBoard's file grows with every episode.
    while time.monotonic() < deadline:
        if sum(f.stat().st_size for f in tmp_path.rglob("events*")) > 20_000:
            break
        time.sleep(0.5)
    os.kill(process.pid, ending)
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not metrics["is_complete"]
    Policy.load(tmp_path / "policy.json")


@pytest.mark.slow
def test_mistakes_end_in_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for arguments, message in (
        (["rewrd=accuracy"], "there is no setting 'rewrd'; the nearest is 'reward'"),
        (["budget.flops=2"], "the budget for flops is 2"),
        (["data=arrays", "data.options.path=nowhere.npz"], "there is no .npz file nowhere.npz"),
        (["model.checkpoint=nowhere.th"], "nowhere.th"),
    ):
        finished = run(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
        assert finished.returncode == 1
        assert message in finished.stderr.splitlines()[-1]
        assert "Traceback" not in finished.stderr
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        finished = run(*QUICK, f"{key}={blocked}/${{now:%H}}")
        assert finished.returncode == 1
        assert f"cannot be written to (Not a directory); give another {key}" in finished.stderr
        assert len(finished.stderr.splitlines()) == 1


@pytest.mark.slow
def test_settings_sweep(tmp_path: Path) -> None:
    finished = run(
        "-m", *QUICK, "base.epochs=1", "reward=accuracy,random", f"hydra.sweep.dir={tmp_path}"
    )
    assert finished.returncode == 0, finished.stderr
    rewards = {json.loads(p.read_text())["reward"] for p in tmp_path.rglob("metrics.json")}
    assert len(rewards) == 2


def test_the_command_is_one_screen() -> None:
    assert len((ROOT / "train_agent.py").read_text().splitlines()) <= 60
