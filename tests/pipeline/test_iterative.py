"""Runs that reach their policy in rounds, on the digits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_model

import amc_env
from amc_env import Policy
from amc_env.data.datasets import digits
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.pipeline import CONFIGS, iterative
from amc_env.pipeline.command import INTERRUPTED, read_jobs, run_jobs
from amc_env.pipeline.main import run_job
from amc_env.pipeline.rounds import Iterations
from amc_env.training import Training

SHORT = ["agent=one_shot", "budget=none", "search.compare=[]", "report=false", "base.epochs=2",
         "finetune.epochs=0", "env.repair=none", "iterative.rounds=3", "iterative.epochs=1",
         "iterative.precision=float32", "base.precision=float32", "env.precision=float32",
         "split.calibration=60", "split.validation=200"]  # fmt: skip

NOTING = """
from pathlib import Path
from amc_env.criteria import Criterion, make_criterion

class Noting(Criterion):
    name = "noting"
    def scores(self, group, calibration):
        with Path({path!r}).open("a") as file:
            file.write(group.name + "\\n")
        return make_criterion("l2").scores(group, calibration)
"""

SLOW = """
import time
from amc_env.criteria import Criterion, make_criterion

class Slow(Criterion):
    name = "slow"
    def scores(self, group, calibration):
        time.sleep(0.05)
        return make_criterion("l2").scores(group, calibration)
"""


def go(folder: Path, *arguments: str) -> int:
    return run_jobs(read_jobs([*SHORT, f"folder={folder}", *arguments], CONFIGS), run_job)


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert go(folder) == 0
    return folder


def test_every_round_drops_the_channels_that_rank_worst_as_the_network_is_then(whole: Path) -> None:
    found = Iterations.load(whole)
    assert [iteration.number for iteration in found.iterations] == [0, 1, 2, 3]
    assert found.criterion == "l2"
    for before, after in zip(found.iterations, found.iterations[1:], strict=False):
        assert after.macs < before.macs
        for one, other in zip(before.groups, after.groups, strict=True):
            # The order of equal scores is no matter of this test: trained weights have none.
            by_score = sorted(zip(one.scores, one.channels, strict=True), reverse=True)
            assert sorted(c for _, c in by_score[: len(other.channels)]) == list(other.channels)
            # Channels that stay were trained, so that they are scored anew.
            assert not {*one.scores} & {*other.scores}


def test_the_policy_and_the_weights_are_those_of_the_last_round(whole: Path) -> None:
    policy, last = Policy.load(whole / "policy.json"), Iterations.load(whole).iterations[-1]
    kept = {group.name: group.kept for group in policy.groups}
    assert kept == {group.name: group.channels for group in last.groups}
    # The agent's half of every group.
    assert all(len(group.kept) == group.channels // 2 for group in policy.groups)
    metrics = metrics_of(whole)
    assert metrics["kept"] == "iterative"
    network = amc_env.load(whole)
    accuracy = Evaluator(digits().test, precision="float32").evaluate(network)
    assert accuracy == metrics["iterative_accuracy"] == policy.accuracy
    assert metrics["network_flops"]["one_shot, iterative"] == last.macs


def test_indices_of_all_rounds_are_those_of_the_original_network(tmp_path: Path) -> None:
    original = build_model("digits_cnn", seed=3)
    save_model(original, str(tmp_path / "original.safetensors"))
    checkpoint = f"model.checkpoint={tmp_path / 'original.safetensors'}"
    assert go(tmp_path / "run", checkpoint, "iterative.epochs=0") == 0
    # Nothing is trained and nothing repaired, so the weights are the original's, cut once.
    cut = Policy.load(tmp_path / "run" / "policy.json").apply(original).state_dict()
    for name, value in load_file(tmp_path / "run" / "pruned.safetensors").items():
        assert torch.equal(value, cut[name])


def test_an_interrupted_round_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, file = tmp_path / "noted", tmp_path / "own.py"
    file.write_text(NOTING.format(path=str(noted)))
    own = f"criterion._target_={file}:Noting"
    assert go(tmp_path / "one", own) == 0
    scored = noted.read_text().split()
    noted.unlink()
    train = iterative.train_

    def stops(run: Any, name: str, training: Training, *, title: str) -> None:
        train(run, name, training, title=title)
        if name == "round-2":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(iterative, "train_", stops)
        assert go(tmp_path / "other", own) == INTERRUPTED
    assert metrics_of(tmp_path / "other")["kept"] == "pruned"
    arguments = [f"resume={tmp_path / 'other'}"]
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    for name in ("policy.json", "iterations.json"):
        assert (tmp_path / "other" / name).read_text() == (tmp_path / "one" / name).read_text()
    one, other = (load_file(tmp_path / run / "pruned.safetensors") for run in ("one", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    # The environment ranks the original network anew; no other network is ranked twice.
    assert len(noted.read_text().split()) == len(scored) + len(scored) // 4
    assert not list((tmp_path / "other" / "resume").glob("round-*"))


def test_rounds_repair_as_episodes_do_and_learn_from_the_original(tmp_path: Path) -> None:
    few = ["iterative.rounds=2", "iterative.distil=1", "criterion=reconstruction"]
    for repair in ("none", "plain"):
        folder = tmp_path / repair
        assert go(folder, f"env.repair={repair}", *few, "iterative.epochs=0") == 0
    accuracies = [metrics_of(tmp_path / r)["iterative_accuracy"] for r in ("none", "plain")]
    assert accuracies[0] < accuracies[1]


def test_numbers_are_given_for_rounds_and_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(SLOW)
    given = ["iterative.rounds=2", "iterative.epochs=0", "latency=false", "base.epochs=1",
             f"criterion._target_={file}:Slow"]  # fmt: skip
    own = "iterative.counts=[{features.3:20,features.7:30}]"
    assert go(tmp_path / "run", *given, own) == 0
    found = [
        {group.name: len(group.channels) for group in iteration.groups}
        for iteration in Iterations.load(tmp_path / "run").iterations
    ]
    # Of 16, 32, 32 and 64 channels half stay in the end; those that are not named take even steps.
    assert [[*each.values()] for each in found] == [
        [16, 32, 32, 64],
        [11, 20, 30, 45],
        [8, 16, 16, 32],
    ]
    # Four groups are ranked for each of both rounds.
    assert metrics_of(tmp_path / "run")["ranking_seconds"] > 8 * 0.05
    for wrong, message in (
        ("iterative.counts=[{features.3:33}]", "gives group 'features.3' 33 of 32 channels"),
        ("iterative.counts=[[1,2,3]]", "round 1 of iterative.counts has 3 numbers"),
        ("iterative.rates=[0.5,0.5,0.5]", "iterative: rates has numbers for 3 rounds"),
        ("iterative.rates=[many]", "iterative.rates is ['many']: give a list with a share for all"),
        ("iterative.counts=[5]", "iterative.counts is [5]: give a list with [N, ...] for all"),
    ):
        assert go(tmp_path / "other", *given, wrong) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()
