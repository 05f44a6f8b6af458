"""Runs whose candidates are evaluated by workers, on the digits."""

import csv
import json
from pathlib import Path

import optuna
import pytest
from killing import Until, killed

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.main import run_job
from amc_env.pipeline.overrides import Settings

QUICK = ["base.epochs=1", "search.episodes=12", "search.compare=[random]", "search.finalists=1",
         "adjust.epochs=0", "finetune.epochs=0", "latency=false", "report=false", "agent=cma_es",
         "env.precision=float32", "base.precision=float32", "split.calibration=60",
         "split.validation=300", "split.selection=100"]  # fmt: skip


def go(*arguments: str) -> int:
    return run_jobs(read_jobs(arguments, CONFIGS), run_job)


def found(folder: Path) -> tuple[object, ...]:
    """The policies and the episodes, without their durations."""
    assert json.loads((folder / "metrics.json").read_text())["is_complete"]
    rows = csv.DictReader((folder / "episodes.csv").read_text().splitlines())
    episodes = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    policies = [(folder / name / "policy.json").read_text() for name in (".", "compare/random")]
    return episodes, policies


def has_outcomes(number: int) -> Until:
    def has(folder: Path) -> bool:
        path = folder / "resume" / "journal"
        return path.exists() and path.read_text(errors="replace").count("outcome on") >= number

    return has


@pytest.mark.slow
def test_a_killed_run_with_workers_goes_on_to_the_result_of_one_worker(tmp_path: Path) -> None:
    one, two, storage = tmp_path / "one", tmp_path / "two", str(tmp_path / "studies.log")
    assert go(*QUICK, f"folder={one}") == 0
    own = ["search.workers=2", f"search.storage={storage}", f"folder={two}"]
    killed(has_outcomes(4), two, *QUICK, *own)
    assert go(f"resume={two}", "search.workers=3") == 0
    assert found(two) == found(one)
    trials = optuna.load_study(study_name=str(two), storage=_journal(storage)).trials
    assert [trial.user_attrs["number"] for trial in trials] == list(range(1, 13))


@pytest.mark.slow
def test_a_run_with_workers_on_ray_ends_as_one_with_one_worker(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    one, two = tmp_path / "one", tmp_path / "two"
    assert go(*QUICK, f"folder={one}") == 0
    assert go(*QUICK, "search.workers=2", "search.engine=ray", f"folder={two}") == 0
    assert found(two) == found(one)


def test_an_engine_that_does_not_exist_is_refused_before_anything_is_made() -> None:
    settings = Settings(CONFIGS).compose(["search.workers=2", "search.engine=rai"])
    with pytest.raises(ValueError, match="engine 'rai' does not exist; the nearest is 'ray'"):
        RunConfig.of(settings).make()


def test_workers_on_another_device_are_refused_before_anything_is_made() -> None:
    settings = Settings(CONFIGS).compose(["search.workers=2", "device=meta"])
    with pytest.raises(ValueError, match="2 workers and the device is meta"):
        RunConfig.of(settings).make()


def _journal(path: str) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
