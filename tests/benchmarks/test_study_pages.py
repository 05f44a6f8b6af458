"""The pages of studies that are published: the same table, and no path of a machine."""

from pathlib import Path

import pytest

from benchmarks.study_pages import publish, without_paths

# Where a run may have had its files, put together so that no path of a machine stands here.
ELSEWHERE = "/".join(("", "some", "folder"))
PAGE = f"""# some_study, cpu

**Command.** `uv run train_agent.py study=some_study data.options.path={ELSEWHERE}/all.npz \
'model.checkpoint={ELSEWHERE}/${{model.name}}.th' folder={ELSEWHERE} seed=1`

| a/b | {ELSEWHERE}/in/a/table |

![one](one.svg)
"""


def test_the_command_keeps_the_names_of_files_alone() -> None:
    lines = without_paths(PAGE).splitlines()
    assert lines[2] == (
        "**Command.** `uv run train_agent.py study=some_study data.options.path=all.npz "
        "'model.checkpoint=${model.name}.th' seed=1`"
    )
    assert lines[4] == f"| a/b | {ELSEWHERE}/in/a/table |"


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
