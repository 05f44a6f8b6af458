"""The pages of studies that are published: the same table, and no path of a machine."""

from pathlib import Path

import pytest

from benchmarks.study_pages import publish, without_paths

PAGE = """# some_study, cpu

**Command.** `uv run train_agent.py study=some_study data.options.path=/home/me/all.npz \
'model.checkpoint=/x/y/${model.name}.th' folder=/tmp/here seed=1`

| a/b | /not/a/command |

![one](one.svg)
"""


def test_the_command_keeps_the_names_of_files_alone() -> None:
    lines = without_paths(PAGE).splitlines()
    assert lines[2] == (
        "**Command.** `uv run train_agent.py study=some_study data.options.path=all.npz "
        "'model.checkpoint=${model.name}.th' seed=1`"
    )
    assert lines[4] == "| a/b | /not/a/command |"


def test_a_page_comes_with_its_pictures_and_large_ones_as_pixels(tmp_path: Path) -> None:
    study, out = tmp_path / "study", tmp_path / "out"
    study.mkdir()
    (study / "table.md").write_text(PAGE, encoding="utf-8")
    (study / "one.svg").write_text("<svg/>", encoding="utf-8")
    (study / "one.png").write_bytes(b"pixels")
    page = publish(study, out)
    assert page == out / "some_study.md"
    assert "(some_study-one.svg)" in page.read_text(encoding="utf-8")
    (study / "one.svg").write_text("<svg>" + 200_000 * " " + "</svg>", encoding="utf-8")
    assert "(some_study-one.png)" in publish(study, out).read_text(encoding="utf-8")
    assert (out / "some_study-one.png").read_bytes() == b"pixels"


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no table\.md; give the folder of a study"):
        publish(tmp_path, tmp_path)
