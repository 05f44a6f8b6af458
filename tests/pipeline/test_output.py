import json
from pathlib import Path

import pytest

from amc_env.pipeline.output import check_output, write_error


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    check_output(tmp_path)
    check_output(tmp_path / "deep" / "er")
    assert not list(tmp_path.iterdir())
    (tmp_path / "policy.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not empty, .* give another one as folder=FOLDER"):
        check_output(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            ValueError, match=r"cannot be written to \(Not a directory\); give another"
        ):
            check_output(folder)


def test_an_error_is_left_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_error(tmp_path / "0_seed=1", "the budget is 2")
    told = json.loads((tmp_path / "0_seed=1" / "error.json").read_text())
    assert told == {"error": "the budget is 2"}
