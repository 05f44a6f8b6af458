"""The wheel stands alone: built, installed in an empty environment, and used from there."""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("base.epochs=1", "search.episodes=3", "search.compare=[]", "search.finalists=1",
         "agent=random", "adjust.epochs=1", "finetune.epochs=1", "split.calibration=60",
         "split.validation=100", "split.selection=100")  # fmt: skip


def run(*command: str | Path, cwd: Path) -> str:
    # Variables of the environment that runs the tests must not lead the new one back to it.
    names = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH")
    outer = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(command, cwd=cwd, env=outer, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("uv", "build", "--wheel", "--out-dir", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The interpreter of an environment that holds the wheel and what it needs, and no more."""
    run("uv", "venv", wheel.parent / "empty", cwd=wheel.parent)
    found = wheel.parent / "empty" / "bin" / "python"
    run("uv", "pip", "install", "--python", found, wheel, cwd=wheel.parent)
    return found


@pytest.mark.slow
def test_the_wheel_holds_one_package_with_its_settings(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"amc_env"}
    assert {"amc_env/configs/config.yaml", "amc_env/py.typed"} <= {*names}


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs_without_a_clone(python: Path, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## Your own network")[2]
    example = re.search(r"```python\n(.*?)```", section, re.S)
    assert example is not None
    assert "of the MACs 1 episodes" in run(python, "-c", example[1], cwd=tmp_path)
    refused = "from amc_env.agents import make_agent; make_agent('tpe')"
    with pytest.raises(AssertionError, match=r"ValueError: agent 'tpe' needs optuna.*\[agents\]"):
        run(python, "-c", refused, cwd=tmp_path)


@pytest.mark.slow
def test_every_command_runs_without_a_clone(python: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        return run(python, "-m", "amc_env", *arguments, cwd=tmp_path)

    assert "resnet18, input 3 x 224 x 224: 12 groups" in command("inspect", "resnet18")
    assert "  python -m amc_env train [-m] [GROUP=CHOICE" in command("train", "--help")
    said = command("train", *QUICK, "folder=run")
    assert "export it: python -m amc_env export run" in said
    again = command("train", "resume=run")
    assert "the run in run is finished; nothing is changed" in again
    written = command("export", "run", "--to", "torch_export,safetensors,yaml,csv")
    assert "wrote run/export/network.pt2" in written
    assert command("report", "run", "--out", "page.html") == "wrote page.html\n"
    command("apply", "run", "digits_cnn", "--out", "cut")
    load = "import amc_env; print(type(amc_env.load('run')).__name__)"
    assert run(python, "-c", load, cwd=tmp_path) == "DigitsCnn\n"
