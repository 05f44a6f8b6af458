"""The wheel stands alone: built, installed in an empty environment, run."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    # Variables of the environment that runs the tests must not lead the new one back to it.
    names = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH")
    outer = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(command, cwd=cwd, env=outer, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv to build and install")
def test_the_wheel_holds_amc_env_alone_and_inspects_a_model(tmp_path: Path) -> None:
    run("uv", "build", "--wheel", "--out-dir", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"amc_env"}
    run("uv", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run("uv", "pip", "install", "--python", python, wheel, cwd=tmp_path)
    out = run(python, "-m", "amc_env", "inspect", "resnet18", cwd=tmp_path)
    assert "resnet18, input 3 x 224 x 224: 12 groups" in out
