"""Accuracies, paired differences and their tables, by hand."""

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.rivals.experiment import UNIFORM, Run
from benchmarks.rivals.report import accuracies, difference, markdown, write_rows

ALL = torch.ones(4, dtype=torch.bool)


def run(method: str, right: list[int], *, seed: int = 0, allocation: str = UNIFORM) -> Run:
    return Run(
        allocation=allocation,
        method=method,
        seed=seed,
        macs_ratio=0.5,
        seconds=1.0,
        is_right=torch.tensor(right, dtype=torch.bool),
    )


OURS = [run("ours", [1, 1, 1, 1]), run("ours", [1, 1, 1, 0], seed=1)]
THEIRS = [run("theirs", [1, 0, 0, 0]), run("theirs", [1, 1, 0, 0], seed=1)]


def test_differences_are_paired_over_images() -> None:
    # Image by image, theirs less ours: 0, -0.5, -1 and -0.5, with a deviation of sqrt(1 / 6).
    found = difference(THEIRS, OURS, ALL)
    assert found.mean == pytest.approx(-0.5)
    assert found.half_width == pytest.approx(1.96 * (1 / 6) ** 0.5 / 2)
    assert str(found) == "-50.0 ± 40.0"


def test_equal_networks_differ_by_nothing() -> None:
    found = difference(OURS, OURS, ALL)
    assert (found.mean, found.half_width) == (0.0, 0.0)


def test_only_the_images_of_the_mask_count() -> None:
    mask = torch.tensor([True, True, False, False])
    assert accuracies(THEIRS, mask) == [0.5, 1.0]
    assert difference(THEIRS, OURS, mask).mean == -0.25


def test_the_table_has_a_line_for_every_repair() -> None:
    apart = run("theirs", [0, 0, 0, 1], allocation="elsewhere")
    lines = markdown([*THEIRS, *OURS, apart], ALL, reference="ours").splitlines()
    assert lines[0] == "| repair | uniform, 0.500 MACs | difference | s |"
    assert lines[2] == "| theirs | 37.5 (± 17.7) | -50.0 ± 40.0 | 1.0 |"
    assert lines[3] == "| **ours** | 87.5 (± 17.7) |  | 1.0 |"
    assert lines[-1].startswith("| elsewhere | 0.500 | theirs | 25.0 | -62.5 ± ")


def test_every_run_and_set_of_images_is_a_row(tmp_path: Path) -> None:
    mask = torch.tensor([True, False, False, False])
    write_rows(tmp_path / "rows.csv", OURS, {"all": ALL, "first": mask})
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["accuracy"] for row in rows] == ["1.0000", "0.7500", "1.0000", "1.0000"]
    assert rows[1]["images"] == "all"
    assert rows[1]["seed"] == "1"
