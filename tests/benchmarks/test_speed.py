"""The benchmark, short: ratios within one run stay on the right side of a line."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main, measured
from benchmarks.speed.records import Case, Report, Size, Table, markdown, report
from benchmarks.speed.rows import ROWS, chosen

SHORT = Size(short=True, rounds=3)
# Of small networks, on one thread: on an idle machine the ratios are two and more times as far from
# these lines. To prove every cut takes the same Python for a small network as for a large one, so
# that the first ratio is far less in the networks of the whole benchmark.
AT_MOST = {
    ("analysis", "times torch-pruning's"): 60.0,
    ("ddpg", "times stable-baselines3's"): 3.0,
}
AT_LEAST = {
    ("compaction", "times as fast"): 1.5,
    ("repair", "Cholesky anew / plan"): 0.7,
    ("repair", "Ridge / plan"): 1.5,
    ("repair", "LinearRegression / plan"): 3.0,
    ("entropy", "graycomatrix, stacked / amc_env"): 4.0,
    ("entropy", "graycomatrix, per map / amc_env"): 20.0,
}
TRIES = 3


def table(name: str) -> Table:
    (row,) = chosen([name])
    return measured(row, SHORT)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", sorted({row for row, _ in (*AT_MOST, *AT_LEAST)}))
def test_ratios_stay_on_the_right_side_of_their_lines(name: str) -> None:
    # Other load moves a ratio now and then, worse code every time.
    found = []
    for _ in range(TRIES):
        found.append(wrong_ratios(name))
        if not found[-1]:
            return
    pytest.fail(f"in {TRIES} measurements: {found}")


def wrong_ratios(name: str) -> dict[str, float]:
    """The ratios of a row that are on the wrong side of their lines."""
    wrong = {}
    for case in table(name).cases:
        for (row, ratio), line in AT_MOST.items():
            if row == name and case.values[ratio] > line:
                wrong[f"{case.name}, {ratio}"] = case.values[ratio]
        for (row, ratio), line in AT_LEAST.items():
            if row == name and case.values[ratio] <= line:
                wrong[f"{case.name}, {ratio}"] = case.values[ratio]
    return wrong


@pytest.mark.parametrize("name", ["costs", "calibration", "criteria"])
def test_other_rows_tell_what_they_measure(name: str) -> None:
    cases = table(name).cases
    assert cases
    assert all(value > 0.0 for case in cases for value in case.values.values())


def test_an_episode_is_told_by_phase() -> None:
    (case,) = table("episode").cases
    phases = sum(case.values[f"{phase} s"] for phase in ("select", "compact", "repair", "evaluate"))
    assert 0.0 < phases <= case.values["all s"] * 1.5


@pytest.mark.slow
def test_one_process_is_compared_with_two_workers() -> None:
    cases = table("workers").cases
    assert [case.name for case in cases][:2] == ["1", "2"]
    assert all(value > 0.0 for case in cases for value in case.values.values())


def test_rows_are_chosen_by_name_and_searches_only_so() -> None:
    assert not {"search", "workers"} & {row.name for row in chosen([])}
    assert [row.name for row in chosen(["search", "costs"])] == ["search", "costs"]
    assert len({row.name for row in ROWS}) == len(ROWS)
    with pytest.raises(ValueError, match="there is no row 'cost'; choose from analysis"):
        chosen(["cost"])


def test_a_run_leaves_a_page_and_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["costs", "--short", "--rounds", "1", "--out", str(tmp_path / "speed")])
    assert "costs ..." in capsys.readouterr().out
    found = Report.model_validate(json.loads((tmp_path / "speed.json").read_text()))
    page = (tmp_path / "speed.md").read_text()
    assert page == markdown(found)
    assert f"torch {torch.__version__}" in page
    assert "| cifar_resnet20 |" in page
    assert found.threads == 1


def test_columns_that_only_some_lines_have_are_empty_in_the_others() -> None:
    cases = [Case(name="a", values={"s": 0.12345}), Case(name="b", values={"images/s": 12345.6})]
    page = markdown(report([Table(row="r", about="About.", cases=cases)], SHORT))
    assert "| | s | images/s |\n| --- | --: | --: |\n| a | 0.123 |  |\n| b |  | 12,346 |" in page


def test_a_misspelt_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["analysys"])
    assert "there is no row 'analysys'" in capsys.readouterr().err
