"""Commands as a user types them: in a clone, or where the package is installed without one."""

import shlex
from pathlib import Path

_IS_CLONE = (Path(__file__).resolve().parents[2] / "train_agent.py").is_file()


def train_call(*arguments: str) -> str:
    """The command of a run."""
    if _IS_CLONE:
        return shlex.join(["uv", "run", "train_agent.py", *arguments])
    return package_call("train", *arguments)


def package_call(*arguments: str) -> str:
    """Another command of the package, such as ``export``."""
    runner = ["uv", "run"] if _IS_CLONE else []
    return shlex.join([*runner, "python", "-m", "amc_env", *arguments])
