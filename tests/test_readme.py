"""The tables of README.md are those of docs/results."""

import re
from pathlib import Path

import pytest

from benchmarks.readme import README, ROOT, refreshed, table

PAGE = """# Page

| a | b | c |
| --- | --: | --- |
| x | 1 |  |

## Second

Text.

| a | d |
| --- | --: |
| y | 2 |
| z | 3 |
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "page.md").write_text(PAGE)
    return folder / "page.md"


def test_the_tables_are_those_of_the_results() -> None:
    text = README.read_text()
    assert text.count("<!-- docs/results/") >= 2
    assert refreshed(text) == text


def test_accuracies_in_the_text_stand_in_the_results() -> None:
    measured = README.read_text().partition("\n## Measured\n")[2].partition("\n## ")[0]
    searches = (ROOT / "docs" / "results" / "searches.md").read_text()
    text = re.sub(r"^\|.*$", "", measured, flags=re.M)
    figures = re.findall(r"\b\d\d\.\d\d\b", text)
    assert len(figures) >= 2
    assert [figure for figure in figures if figure not in searches] == []


def test_columns_are_chosen_and_may_have_other_names(page: Path) -> None:
    assert table(page, None, ["b", "a = first"]) == "| b | first |\n| --: | --- |\n| 1 | x |\n"
    assert table(page, "Second", ["d"]) == "| d |\n| --: |\n| 2 |\n| 3 |\n"


def test_a_table_is_written_in_the_place_of_the_old_one(page: Path) -> None:
    root = page.parents[2]
    before = "Text.\n<!-- docs/results/page.md, Second: a | d -->\n| old |\n| old |\n\nMore.\n"
    after = refreshed(before, root=root)
    assert after.splitlines()[2:6] == ["| a | d |", "| --- | --: |", "| y | 2 |", "| z | 3 |"]
    assert after.endswith("\n\nMore.\n")
    assert refreshed(after, root=root) == after


@pytest.mark.parametrize(
    ("heading", "column", "message"),
    [("Third", "a", "no table below 'Third'"), ("Second", "b", "no column 'b'; it has a, d")],
)
def test_what_is_not_there_is_refused(page: Path, heading: str, column: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(page, heading, [column])
