"""Runs that compare with masks, on the digits."""

import json
from pathlib import Path

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.main import run_job
from amc_env.pipeline.table import read_runs, tabulate

SHORT = ["base.epochs=1", "agent=uniform", "search.compare=[]", "adjust.epochs=0",
         "split.calibration=60", "split.validation=200", "env.precision=float32",
         "base.precision=float32", "finetune.precision=float32"]  # fmt: skip


def test_masks_are_shown_beside_the_pruned_network_and_said_to_make_nothing_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = [*SHORT, "masks=[global,local]", "finetune.epochs=1", "report=false",
                 f"folder={folder}"]  # fmt: skip
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    said = capsys.readouterr().out
    assert "the network is not smaller" in said
    assert "no smaller network" in said
    metrics = json.loads((folder / "metrics.json").read_text())
    names = [f"{way} magnitude masks{end}" for way in ("global", "local")
             for end in ("", ", finetuned")]  # fmt: skip
    assert [*metrics["masks"]] == names
    own = metrics["network_flops"]["uniform, repaired"]
    for name in names:
        figures = metrics["masks"][name]
        assert 0.98 * own < figures["flops"] == metrics["network_flops"][name] <= own
        assert 0 < figures["sparsity"] < 1
    assert metrics["masks"][names[0]] == metrics["masks"][names[1]]
    accuracies = metrics["test_accuracies"]
    assert accuracies[names[0]] != accuracies[names[1]]
    assert metrics["kept"] in ("repaired", "finetuned")
    assert all(name in tabulate(read_runs(tmp_path)) for name in names)


def test_without_fine_tuning_masked_networks_are_not_trained_either(tmp_path: Path) -> None:
    arguments = [*SHORT, "masks=[local]", "finetune.epochs=0", "report=false",
                 f"folder={tmp_path / 'run'}"]  # fmt: skip
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [*metrics["masks"]] == ["local magnitude masks"]


def test_where_the_classifier_alone_costs_more_there_are_no_masks_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    arguments = [*SHORT, f"model.name={file}:net", "masks=[global]", "finetune.epochs=0",
                 "report=false", "agent=one_shot", "agent.options.counts=[1]", "budget=none",
                 f"folder={tmp_path / 'run'}"]  # fmt: skip
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    assert "no global magnitude masks: 684 multiply-accumulates are" in capsys.readouterr().out
    assert "masks" not in json.loads((tmp_path / "run" / "metrics.json").read_text())
