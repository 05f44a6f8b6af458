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
         "agent.options.warmup_episodes=3", "env.precision=float32", "base.precision=float32",
         "finetune.precision=float32", "adjust.epochs=1"]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_agent.py"), *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    finished = run(*QUICK, f"folder={folder}", "seed=3")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    named = [
        f"{agent}, {stage}" for agent in ("ddpg", "uniform") for stage in ("pruned", "repaired")
    ]
    for word in (*named, "original", "ddpg, finetuned", "MACs", "threads"):
        assert word in finished.stdout
    return folder


@pytest.mark.slow
def test_a_run_leaves_its_files(done: Path) -> None:
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["seed"] == 3
    assert metrics["episodes"] == 6
    assert metrics["flops_ratio"] <= 0.5
    assert metrics["is_complete"]
    assert {(one["batch"], one["threads"]) for one in metrics["latency"]} >= {(1, 1), (64, 1)}
    assert all(one["pruned"][0] > 0.0 for one in metrics["latency"])
    assert set(metrics["episode_seconds"]) == {"select", "compact", "repair", "evaluate"}
    assert sum(metrics["episode_seconds"].values()) * 6 < metrics["search_seconds"]
    for name in ("baseline", "pruned", "repaired", "finetuned"):
        assert 0 <= metrics[f"{name}_accuracy"] <= 1
    with (done / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    rewards = [float(row["reward"]) for row in rows]
    # The finalist that is kept need not be the best of the search.
    kept = [row for row in rows if float(row["params_ratio"]) == metrics["params_ratio"]]
    assert metrics["reward"] in [float(row["reward"]) for row in kept]
    assert max(rewards) - min(rewards) == pytest.approx(metrics["reward_spread"])
    assert list((done / "tensorboard").rglob("events*"))
    assert "episodes: 6" in (done / "config.yaml").read_text()
    assert not list(done.glob(".*.part"))


@pytest.mark.slow
def test_policy_and_weights_give_the_accuracy_told(done: Path) -> None:
    compact = Policy.load(done / "policy.json").apply(build_model("digits_cnn").eval())
    load_model(compact, done / "pruned.safetensors")
    metrics = json.loads((done / "metrics.json").read_text())
    test = Evaluator(digits().test, precision="float32")
    assert test.evaluate(compact.eval()) == metrics[f"{metrics['kept']}_accuracy"]
    assert sum(p.numel() for p in compact.parameters()) == metrics["params"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(done: Path, tmp_path: Path) -> None:
    again = run(*QUICK, f"folder={tmp_path}", "seed=3")
    assert again.returncode == 0
    assert (tmp_path / "policy.json").read_text() == (done / "policy.json").read_text()
    first, second = (
        json.loads((folder / "metrics.json").read_text()) for folder in (done, tmp_path)
    )
    assert first["test_accuracies"] == second["test_accuracies"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_best_so_far(ending: signal.Signals, tmp_path: Path) -> None:
    arguments = [*QUICK, "search.episodes=100000", f"folder={tmp_path}"]
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
        finished = run(*arguments, f"folder={tmp_path / 'run'}")
        assert finished.returncode == 1
        assert message in finished.stderr.splitlines()[-1]
        assert "Traceback" not in finished.stderr
        assert not (tmp_path / "run").exists()
    finished = run(*QUICK, f"folder={blocked}/run")
    assert finished.returncode == 1
    assert "cannot be written to (Not a directory); give another folder" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


# Modules that take from a tenth of a second to many seconds to import.
HEAVY = (
    "torch", "torchvision", "timm", "numba", "scipy", "sklearn", "optuna", "cmaes",
    "stable_baselines3", "sb3_contrib", "tensorboard", "pydantic", "pandas", "matplotlib", "rich",
)  # fmt: skip


@pytest.mark.parametrize("argument", ["--help", "serach.episodes=3", "search.episodes=many"])
def test_help_and_refusals_import_nothing_heavy(argument: str) -> None:
    script = (
        "import sys, runpy; sys.argv = ['train_agent.py', sys.argv[1]]\n"
        "try:\n    runpy.run_path('train_agent.py', run_name='__main__')\n"
        "except SystemExit as end:\n    print('status', end.code)\n"
        "print(*sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, argument], capture_output=True, text=True, cwd=ROOT,
        check=True,
    )  # fmt: skip
    *_, status, modules = finished.stdout.splitlines()
    assert status == f"status {0 if argument == '--help' else 1}"
    assert not {*HEAVY} & {*modules.split()}


@pytest.mark.slow
def test_settings_sweep(tmp_path: Path) -> None:
    finished = run("-m", *QUICK, "base.epochs=1", "reward=accuracy,random", f"folder={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    rewards = {json.loads(p.read_text())["reward"] for p in tmp_path.rglob("metrics.json")}
    assert len(rewards) == 2


@pytest.mark.slow
def test_a_run_chooses_its_reward(tmp_path: Path) -> None:
    finished = run(*QUICK, "reward=auto", "trust=8", "search.compare=[]", f"folder={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    by_loss = {name: each["loss"]["correlation"] for name, each in metrics["trust"].items()}
    assert f"the reward {metrics['reward_name']} ranks the networks best" in finished.stdout
    rewards = {"parameters left", "summed error curves", "random"} ^ by_loss.keys()
    known = [by_loss[name] for name in rewards if by_loss[name] is not None]
    assert by_loss[metrics["reward_name"]] == max(known)
    assert (tmp_path / "trust_policies.csv").exists()


@pytest.mark.slow
def test_a_job_that_fails_does_not_end_a_sweep(tmp_path: Path) -> None:
    finished = run(
        "-m", *QUICK, "base.epochs=1", "search.compare=[]", "budget.flops=0.01,0.5",
        f"folder={tmp_path / 'my swe€p'}",
    )  # fmt: skip
    assert finished.returncode == 1
    assert "0_budget.flops=0.01: the budget for flops is 0.01" in finished.stderr
    (error,) = tmp_path.rglob("error.json")
    assert error.parent.name == "0_budget.flops=0.01"
    (done,) = tmp_path.rglob("metrics.json")
    assert done.parent.name == "1_budget.flops=0.5"
    again = run("-m", *QUICK, f"folder={tmp_path / 'my swe€p'}")
    assert "is not empty" in again.stderr


def test_the_stages_are_one_screen() -> None:
    assert len((ROOT / "amc_env/pipeline/main.py").read_text().splitlines()) <= 60
