"""Runs of a study: where each goes on, and the base networks that they share."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from amc_env.files import atomic
from amc_env.pipeline.command import Job, begun
from amc_env.studies.plan import Plan, PlannedRun, as_plain, changed

BASES = "bases"
_WEIGHTS = "base.safetensors"
_DIGITS = 8

# The settings of all that a base network depends on.
OF_BASE = ("model", "data", "base", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A network that several runs of a study prune.

    Attributes:
        folder: Where it is trained.
        settings: The settings of its training.
    """

    folder: Path
    settings: DictConfig

    @property
    def weights(self) -> Path:
        """The file of its trained weights."""
        return self.folder / _WEIGHTS


def base_of(plan: Plan, run: PlannedRun) -> Base | None:
    """The base network of a run; None where the run has a checkpoint of its own.

    Runs share it where they have the same network, data and training, whatever their seed.
    """
    settings = as_plain(run.settings)
    if settings["model"]["checkpoint"]:
        return None
    name = shared_name(settings, {key: settings[key] for key in OF_BASE})
    return Base(folder=plan.folder / BASES / name, settings=changed(run.settings, seed=0))


def shared_name(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The name of a folder that runs share: their network's, and a checksum of other facts."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    # A network of a user's own may be a path.
    return f"{Path(settings['model']['name'] or 'network').name}-{key}"


def job_of(folder: Path, settings: DictConfig, overrides: Sequence[str] = ()) -> Job:
    """The job of a run, which goes on from where it was interrupted if it has begun."""
    job = Job(settings=settings, folder=folder, overrides=tuple(overrides), is_swept=True)
    return begun(job)


def with_checkpoint(settings: DictConfig, weights: Path) -> DictConfig:
    """The settings with a file of trained weights."""
    return changed(settings, model={**as_plain(settings)["model"], "checkpoint": str(weights)})


def save_base(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights of a base network."""
    with atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)
