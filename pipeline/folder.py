"""A run's folder: files that are whole or not there, and curves."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_model
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from agents import Episode
from amc_env import ChannelGraph, Policy
from amc_env.env.rendering import draw
from amc_env.files import atomic, write_text
from pipeline.output import check_output

_COLUMNS = ("number", "reward", "accuracy", "flops_ratio", "params_ratio", "at_seconds")


class RunFolder:
    """Where one run writes.

    Args:
        path: The folder. It is made by ``open_``, so that a run that is refused leaves none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._curves: SummaryWriter | None = None

    def open_(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, and write the settings as they were resolved.

        Raises:
            ValueError: The folder cannot be written to, or another run has written to it.
        """
        check_output(self.path)
        plain = json.loads(json.dumps(settings))
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
        self._curves = SummaryWriter(str(self.path / "tensorboard"))

    def note(self, episode: Episode, graph: ChannelGraph, *, is_best: bool) -> None:
        """Curves of one episode, and a picture of the best so far."""
        scalars = {
            "episode/reward": episode.reward,
            "episode/accuracy": episode.accuracy,
            "episode/flops_ratio": episode.flops_ratio,
            "episode/params_ratio": episode.params_ratio,
            **{f"reward/{name}": value for name, value in episode.reward_parts.items()},
            **{
                f"sparsity/{group.name}": sparsity
                for group, sparsity in zip(graph.groups, episode.sparsities, strict=True)
            },
        }
        if self._curves is None:
            raise ValueError(f"the folder {self.path} is not open; call open_ first")
        for name, value in scalars.items():
            self._curves.add_scalar(name, value, episode.number)
        if is_best:
            picture = draw(graph, episode.counts)
            self._curves.add_image("best/kept", picture, episode.number, dataformats="HWC")

    def write_episodes(self, episodes: tuple[Episode, ...], names: tuple[str, ...]) -> None:
        """One line for each episode."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, *(f"sparsity/{name}" for name in names)])
        for episode in episodes:
            writer.writerow([getattr(episode, c) for c in _COLUMNS] + list(episode.sparsities))
        write_text(self.path / "episodes.csv", text.getvalue())

    def write_network(self, policy: Policy, compact: nn.Module) -> None:
        """The policy, and the weights of its compact network."""
        policy.save(self.path / "policy.json")
        with atomic(self.path / "pruned.safetensors") as temporary, torch.no_grad():
            save_model(compact, str(temporary))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """The figures of the run."""
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def close(self) -> None:
        """End the curves."""
        if self._curves is not None:
            self._curves.close()
