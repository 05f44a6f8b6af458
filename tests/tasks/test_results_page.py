"""The page of measured tasks is made of sections, each of which can be made anew."""

from pathlib import Path

from benchmarks.tasks.__main__ import page_of, sections_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "tasks.md"


def test_the_page_is_what_its_sections_make() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_of(sections_in(text)) == text


def test_a_section_takes_the_place_of_its_own_and_leaves_the_others() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = sections_in(text)
    new = sections_in(page_of({**sections, "Detection": "| a new table |"}))
    assert new == {**sections, "Detection": "| a new table |"}
    assert list(new)[:2] == ["Segmentation", "Detection"]
