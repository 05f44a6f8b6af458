"""Original networks are measured once by the runs of a process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.accuracies import Accuracies, Examiner
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.main import run_job
from amc_env.pipeline.originals import Originals

SETTINGS: dict[str, Any] = {
    "model": {"name": "one"},
    "data": {"name": "digits", "options": {}},
    "task": {"name": "classification"},
    "device": "cpu",
    "threads": 1,
}


class Counting:
    """Measures networks, each as more accurate than the one before."""

    def __init__(self) -> None:
        self.seen: list[nn.Module] = []

    def __call__(self, model: nn.Module) -> Accuracies:
        self.seen.append(model)
        return Accuracies(whole=len(self.seen) / 100, originals=None)


def linear(*, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_a_network_is_measured_once() -> None:
    originals, measure = Originals(), Counting()
    first = originals.accuracies(linear(seed=0), SETTINGS, measure)
    # A run builds its network anew.
    again = originals.accuracies(linear(seed=0), {**SETTINGS, "seed": 1}, measure)
    assert again is first
    assert len(measure.seen) == 1


@pytest.mark.parametrize(
    "others",
    [
        {"data": {"name": "digits", "options": {"path": "elsewhere"}}},
        {"model": {"name": "another"}},
        {"task": {"name": "segmentation"}},
        {"threads": 2},
    ],
    ids=["data", "model", "task", "threads"],
)
def test_what_depends_on_other_settings_is_measured_again(others: dict[str, Any]) -> None:
    originals, measure = Originals(), Counting()
    originals.accuracies(linear(seed=0), SETTINGS, measure)
    assert originals.accuracies(linear(seed=0), {**SETTINGS, **others}, measure).whole == 0.02


def test_state_that_is_no_tensor_is_no_obstacle() -> None:
    class Keeping(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 0}

    originals, measure = Originals(), Counting()
    assert originals.accuracies(Keeping(3, 2), SETTINGS, measure).whole == 0.01


def test_other_weights_are_measured_again() -> None:
    originals, measure = Originals(), Counting()
    originals.accuracies(linear(seed=0), SETTINGS, measure)
    assert originals.accuracies(linear(seed=1), SETTINGS, measure).whole == 0.02


def test_runs_of_a_sweep_measure_their_original_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    examine = Examiner.examine

    def counting(examiner: Examiner, model: nn.Module) -> Accuracies:
        counts.append(sum(weights.numel() for weights in model.parameters()))
        return examine(examiner, model)

    monkeypatch.setattr(Examiner, "examine", counting)
    arguments = [
        "-m", f"folder={tmp_path / 'sweep'}", "budget.flops=0.4,0.6", "agent=uniform",
        "base.epochs=1", "search.compare=[]", "adjust.epochs=0", "finetune.epochs=0",
        "latency=false", "report=false", "env.precision=float32", "base.precision=float32",
        "split.calibration=60", "split.validation=100", "split.selection=100",
    ]  # fmt: skip
    assert not run_jobs(read_jobs(arguments, CONFIGS), Originals().known_to(run_job))
    figures = [
        json.loads(path.read_text()) for path in sorted(tmp_path.glob("sweep/*/metrics.json"))
    ]
    originals = [one["network_params"].pop("original") for one in figures]
    assert originals == [max(counts)] * 2
    assert counts.count(max(counts)) == 1
    # Each of the two has a pruned and a repaired network.
    assert len(counts) == 1 + 2 * 2
    assert figures[0]["baseline_accuracy"] == figures[1]["baseline_accuracy"]
