"""Trainings of a run, kept after every epoch, so that a resumed run goes on with the next one."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc_env.checksums import checksum, weights_of
from amc_env.memory import Compute, Memory
from amc_env.pipeline import together
from amc_env.pipeline.run import Run
from amc_env.pipeline.screen import progress, say
from amc_env.pipeline.sealed import PREVIOUS, read_sealed, write_sealed
from amc_env.training import Training, expected_seconds


def memory_for(run: Run, name: str, network: nn.Module) -> Memory:
    """The run's journal for a training that starts from this network.

    Args:
        run: The run.
        name: Of the training.
        network: As it is before the training.
    """
    start = checksum({}, weights_of(network))

    def remembered(what: str, compute: Compute) -> Any:
        return run.journal(f"{what}, {name} from {start}", compute)

    return remembered


def train_(run: Run, name: str, training: Training, *, title: str) -> None:
    """Run a training to its end, from the last epoch that a run was interrupted after.

    Args:
        run: The run.
        name: Of the file that keeps the training's state.
        training: The training.
        title: What is shown.
    """
    path, start = run.folder.state / f"{name}.pt", _start(training)
    _restore_(training, path, start)
    _announce(training, title)
    with progress(title, total=training.settings.epochs) as advance:
        for _ in range(training.epoch):
            advance("")

        def tell(_: int, loss: float) -> None:
            _write(training, path, start)
            advance(f"loss {loss:.4f}")

        together.share(training)
        training.run_(tell)


def _restore_(training: Training, path: Path, start: str) -> None:
    """Put a training where its file says, if that is of a training with the same start."""
    content = read_sealed([path, path.with_name(path.name + PREVIOUS)], tell=say)
    kept = _loaded(content, path) if content else None
    if kept and kept["start"] == start:
        training.restore_(kept["state"])


def _loaded(content: bytes, path: Path) -> Mapping[str, Any] | None:
    try:
        # A network may be on another device; what is restored goes where it belongs.
        kept: Mapping[str, Any] = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    except pickle.UnpicklingError:
        say(f"{path} holds more than tensors and numbers, so its training begins again")
        return None
    return kept


def _write(training: Training, path: Path, start: str) -> None:
    content = io.BytesIO()
    torch.save({"start": start, "state": training.state()}, content)
    write_sealed(path, content.getvalue(), previous=path.with_name(path.name + PREVIOUS))


def _start(training: Training) -> str:
    """Tells a training from those of other networks or with other settings."""
    facts = {"settings": repr(asdict(training.settings)), "samples": str(len(training.split))}
    return checksum(facts, weights_of(training.model))


def _announce(training: Training, title: str) -> None:
    """Say how long a training will take."""
    settings, done = training.settings, training.epoch
    if training.is_finished:
        return
    seconds = expected_seconds(
        training.model, training.split, settings, task=training.task, teacher=training.teacher
    )
    seconds *= 1 - done / settings.epochs
    resumed = f", after {done} that are finished" if done else ""
    say(
        f"{title}: {settings.epochs} epochs of {settings.steps(len(training.split))} steps in "
        f"{settings.precision}, about {_duration(seconds)}{resumed}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
