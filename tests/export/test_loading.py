import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import leave_run
from pruning import tiny

import amc_env
from amc_env.models import build_model
from amc_env.policy import ModelSource

OWN = """
from pathlib import Path
from amc_env.models import build_model

Path(__file__).with_suffix(".ran").touch()

def network():
    return build_model("digits_cnn", seed=0)
"""
X = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(one(X), other(X))


def test_the_model_is_found_by_the_name_and_options_in_the_policy(tmp_path: Path) -> None:
    model = build_model("digits_cnn", num_classes=7, seed=3).eval()
    source = ModelSource(name="digits_cnn", options={"num_classes": 7})
    compact = leave_run(tmp_path, model, X, source=source)
    for given in (None, "digits_cnn", model):
        assert equal(amc_env.load(tmp_path, given), compact)


def test_an_object_is_taken_where_the_policy_names_nothing(tmp_path: Path) -> None:
    compact = leave_run(tmp_path, tiny(), X)
    assert equal(amc_env.load(tmp_path, tiny()), compact)
    with pytest.raises(ValueError, match="does not say what builds its network, a Tiny; give the"):
        amc_env.load(tmp_path)


def test_code_that_a_file_names_is_not_run_until_the_user_names_it(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    source = ModelSource(name=f"{file}:network")
    compact = leave_run(tmp_path, build_model("digits_cnn", seed=0).eval(), X, source=source)
    with pytest.raises(ValueError, match=r"code that a file names is not run; give it yourself"):
        amc_env.load(tmp_path)
    assert not file.with_suffix(".ran").exists()
    assert equal(amc_env.load(tmp_path, source.name), compact)


def test_the_command_line_answers_without_torch() -> None:
    script = (
        "import sys, amc_env.__main__ as command\n"
        "try:\n    command.main(['export', '--help'])\n"
        "except SystemExit:\n    assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
