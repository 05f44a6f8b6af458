"""Scores and factors that the runs of a study share: computed once, and removed in time."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import killed
from omegaconf import OmegaConf

from amc_env.calibration import Calibration, calibrate
from amc_env.repair import pruner
from amc_env.studies.main import main
from amc_env.studies.plan import Plan, read_plan
from amc_env.studies.preparations import Preparations

# Three runs of one network, criterion and seed.
SHARING = ("study=scratch_or_finetune", "latency=false")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every calibration, whether it sums up anything for the repair."""
    found: list[bool] = []

    def calibrated(*given: Any, layers: Sequence[str], **settings: Any) -> Calibration:
        found.append(bool(layers))
        return calibrate(*given, layers=layers, **settings)

    monkeypatch.setattr(pruner, "calibrate", calibrated)
    return found


def planned(folder: Path, *arguments: str) -> Plan:
    return read_plan([*arguments, f"folder={folder / 'study'}"])


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of a study's table without the durations, which no two runs share."""
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.mark.slow
def test_the_second_run_reads_what_the_first_computed_and_the_table_is_the_same(
    tmp_path: Path, asked: list[bool]
) -> None:
    assert main([*SHARING, "preparation.max_gib=0", f"folder={tmp_path / 'alone'}"]) == 0
    assert asked == [True, True, True]
    asked.clear()
    assert main([*SHARING, f"folder={tmp_path / 'shared'}"]) == 0
    assert asked == [True, False, False]
    assert table(tmp_path / "shared") == table(tmp_path / "alone")
    assert not (tmp_path / "shared" / "preparation").exists()

    # A kill as soon as the first run has kept them: nothing is computed again.
    folder = tmp_path / "killed"
    killed(lambda at: any(at.glob("preparation/*/*/index.json")), folder, *SHARING,
           f"folder={folder}")  # fmt: skip
    asked.clear()
    assert main([f"resume={folder}"]) == 0
    assert asked == [False, False, False]
    assert table(folder) == table(tmp_path / "alone")


def test_runs_that_share_follow_one_another(tmp_path: Path) -> None:
    plan = planned(tmp_path, "study=unstructured", "scale=cpu", "data.options.path=FILE.npz")
    assert [run.cell.seed for run in plan.runs] == [0, 1, 2] * 4
    assert [run.cell.seed for run in Preparations(plan).in_order()] == [0] * 4 + [1] * 4 + [2] * 4


def test_runs_share_what_a_repair_reads_whatever_they_search_by(tmp_path: Path) -> None:
    plan = planned(tmp_path, "study=entropy_correlation")
    (run,) = plan.runs

    def folder(**others: Any) -> str:
        settings = run.settings.copy()
        for key, value in others.items():
            OmegaConf.update(settings, key.replace("__", "."), value)
        one = replace(run, settings=settings)
        return str(Preparations(replace(plan, runs=(one,))).settings_for(one).preparation.folder)

    own = folder()
    assert own.startswith(str(tmp_path / "study" / "preparation" / "digits_cnn-"))
    for same in (
        {"budget__flops": 0.3},
        {"reward__name": "random"},
        {"agent__name": "random"},
        {"env__repair": "plain"},
        {"env__min_keep": 0.1},
        {"finetune__epochs": 3},
    ):
        assert folder(**same) == own
    for other in (
        {"criterion__name": "l1"},
        {"env__repair": "none"},
        {"env__ridge": 0.1},
        {"split__calibration": 61},
        {"base__epochs": 3},
        {"model__name": "cifar_resnet20"},
        {"seed": 1},
    ):
        assert folder(**other) != own
    assert folder(preparation__folder="mine") == "mine"


def test_what_no_pending_run_reads_is_removed(tmp_path: Path) -> None:
    plan = planned(tmp_path, "study=mi_configurations")
    shared = Preparations(plan)
    folders = [Path(shared.settings_for(run).preparation.folder) for run in plan.runs]
    assert len({*folders}) == 3
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "kept").write_text("")
    shared.tidy(plan.runs[1:])
    assert [folder.exists() for folder in folders] == [False, True, True]
    shared.tidy([])
    assert not folders[0].parent.exists()
