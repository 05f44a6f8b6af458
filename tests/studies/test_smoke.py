"""Every study at its smallest scale: from the command to a table without an empty cell."""

import csv
import re
from pathlib import Path

import pytest
from killing import Until, killed

from amc_env.studies import STUDIES
from amc_env.studies.main import main

# The quickest; the others take two or three seconds for each of their runs.
QUICK = ("entropy_correlation", "entropy_disorder")
NAMES = [
    pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
    for path in sorted(STUDIES.glob("*.yaml"))
]
RESUMED = ("study=scratch_or_finetune", "scale=smoke")


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of a study's table; durations, which no two runs share, are left out."""
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_every_study_ends_in_a_table_without_an_empty_cell(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    command = [f"study={name}", "scale=smoke", f"folder={folder}"]
    assert main(command) == 0, capsys.readouterr().err
    rows = table(folder)
    assert rows
    assert [key for row in rows for key, value in row.items() if not value] == []
    text = (folder / "table.md").read_text()
    assert "**failed**" not in text
    assert "|  |" not in text.split("| data |")[1]
    pictures = re.findall(r"\]\((.*\.svg)\)", text)
    for picture in pictures:
        assert (folder / picture).read_text().rstrip().endswith("</svg>")
        assert (folder / picture).with_suffix(".png").stat().st_size > 1000

    # The same command again runs nothing, and gives the same table.
    runs = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()} == runs
    assert (folder / "table.md").read_text() == text


def any_file(pattern: str, *, times: int = 1) -> Until:
    return lambda folder: len([*folder.glob(pattern)]) >= times


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_in_the_same_table(tmp_path: Path) -> None:
    assert main([*RESUMED, f"folder={tmp_path / 'whole'}"]) == 0
    folder = tmp_path / "killed"
    command = [*RESUMED, f"folder={folder}"]
    for until in (
        any_file("study.json"),
        any_file("bases/*/resume/base.pt"),
        any_file("preparation/*/*/index.json"),
        any_file("runs/000*/policy.json"),
        any_file("runs/000*/resume/finetune.pt"),
        any_file("runs/*/metrics.json"),
        any_file("runs/002*"),
    ):
        killed(until, folder, *command)
        command = [f"resume={folder}"]
    first = folder / "runs" / "000_accuracy_50-_seed=0" / "metrics.json"
    finished = first.stat().st_mtime_ns
    assert main(command) == 0
    assert table(folder) == table(tmp_path / "whole")
    # A run that was finished is not run again.
    assert first.stat().st_mtime_ns == finished


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_study_side_by_side_ends_in_the_table_of_one_run_after_the_other(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*RESUMED, f"folder={one}"]) == 0
    crew = ["runs.workers=2", f"runs.engine={engine}"]
    assert main([*RESUMED, *crew, f"folder={two}"]) == 0, capsys.readouterr().err
    assert table(two) == table(one)
    # Every run has said what it does in a file of its own, and nothing is left to be run.
    runs = [path for path in (two / "runs").iterdir() if path.is_dir()]
    assert all(path.with_name(f"{path.name}.log").stat().st_size > 0 for path in runs)
    assert main([f"resume={two}", "runs.workers=3"]) == 0
    assert table(two) == table(one)


@pytest.mark.slow
def test_runs_share_a_base_network_whatever_their_seed(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert main(["study=entropy_layers", "scale=smoke", f"folder={folder}"]) == 0
    (base,) = (folder / "bases").iterdir()
    assert (base / "base.safetensors").is_file()
    for run in (folder / "runs").iterdir():
        assert str(base / "base.safetensors") in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    # The given numbers of channels exceed this budget, for which the largest network does not ask.
    command = ["study=mi_configurations", f"folder={folder}", "budget.flops=0.25"]
    assert main(command) == 1
    assert "but the bounds and the budget lead to" in capsys.readouterr().err
    assert (folder / "table.md").read_text().count("**failed**") == 2
    assert [row["criterion"] for row in table(folder)] == ["-", "none, most parameters"]
