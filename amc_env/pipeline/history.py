"""What a run was when it began, which a resumed run has to be too."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from amc_env.checksums import checksum, weights_of
from amc_env.data import Source
from amc_env.pipeline.run import Run
from amc_env.pipeline.screen import say

_LIBRARIES = ("torch", "numpy", "stable-baselines3", "sb3-contrib", "optuna", "cmaes", "scipy")


def note_start_(run: Run) -> None:
    """Keep how the run began; say what computes otherwise than then."""
    run.overrides = tuple(run.journal("command line", lambda: list(run.overrides)))
    now = _versions()
    before = run.journal("versions", lambda: now)
    changed = [
        f"{name} {before.get(name)} then, {value} now"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        say(
            f"this run began otherwise ({'; '.join(changed)}), so it may end otherwise than it "
            "would have without the interruption"
        )


def check_same(run: Run, model: nn.Module, train: Source) -> None:
    """Refuse to go on with another network or other data than the run began with.

    Raises:
        ValueError: They are others.
    """
    now = checksum({}, {**train.identity(), **weights_of(model)})
    if run.journal("network and training data", lambda: now) != now:
        raise ValueError(
            f"the network or the training data is not the one that the run in {run.folder.path} "
            "began with; put its files back, or start another run"
        )


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in _LIBRARIES}
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"python": platform.python_version(), **found, "processor": processor}


def _version(library: str) -> str:
    """The version of a library; some are only needed by agents that a run may do without."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"
