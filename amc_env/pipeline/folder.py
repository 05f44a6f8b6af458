"""The folder of a run: episodes and policies as they come, networks, figures and curves."""

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from amc_env import ChannelGraph, Policy
from amc_env.agents import Episode
from amc_env.env.rendering import draw
from amc_env.files import write_text
from amc_env.pipeline.lock import lock
from amc_env.pipeline.output import ERROR_FILE, check_output
from amc_env.pipeline.settings_file import state_of, write_settings
from amc_env.policy import POLICY_FILE
from amc_env.report.details import DETAILS_FILE, Details

_COLUMNS = ("number", "reward", "accuracy", "samples", "flops_ratio", "params_ratio", "at_seconds")


class RunFolder:
    """Where one run writes.

    Args:
        path: The folder. It is made by ``open_``, so that a run that is refused leaves none.
        is_resumed: Whether the folder is that of a run that goes on.
    """

    def __init__(self, path: Path, *, is_resumed: bool = False) -> None:
        self.path = path
        self.is_resumed = is_resumed
        self._episodes = 0
        self._curves: SummaryWriter | None = None

    @property
    def curves(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def state(self) -> Path:
        """The folder of all that a resumed run goes on from."""
        return state_of(self.path)

    @property
    def preparation(self) -> Path:
        """The folder of scores and factors, unless the settings name another."""
        return self.state / "preparation"

    @property
    def picture(self) -> Path:
        """The picture of a run with several budgets, without an ending."""
        return self.path / "budgets"

    @property
    def page(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    def compared(self, agent: str) -> Path:
        """The folder for the policy and weights of an agent that this run is compared with."""
        # An agent given as FILE.py:CLASS is not to make folders of its own.
        return self.path / "compare" / Path(agent).name

    def part(self, name: str) -> "RunFolder":
        """The folder of one of several parts of this run, which leaves there what a run leaves."""
        return RunFolder(self.path / name.replace("/", "-"), is_resumed=self.is_resumed)

    def open_(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, and write the settings with every choice and reference resolved.

        Raises:
            ValueError: The folder cannot be written to, or another run has written to it.
        """
        if not self.is_resumed:
            check_output(self.path)
        self.state.mkdir(parents=True, exist_ok=True)
        lock(self.state, place=self.path)
        if self.is_resumed:
            self._tidy_()
        plain = json.loads(json.dumps(settings))
        write_settings(self.path, OmegaConf.to_yaml(OmegaConf.create(plain)))

    def begin_episodes(self, groups: Sequence[str]) -> None:
        """Write the header of ``episodes.csv`` and begin the curves; the episodes follow."""
        header = [*_COLUMNS, *(f"sparsity/{name}" for name in groups)]
        write_text(self.path / "episodes.csv", _line(header))
        self._curves = SummaryWriter(str(self.curves))

    def add_episode(self, episode: Episode, graph: ChannelGraph, best: Policy | None) -> None:
        """Save one finished episode at once, and the policy if it is the best until now.

        Closing the file after each line leaves at most the last line incomplete, whatever ends
        the run.
        """
        with (self.path / "episodes.csv").open("a", encoding="utf-8", newline="") as file:
            file.write(_line([*(getattr(episode, c) for c in _COLUMNS), *episode.sparsities]))
        self._episodes += 1
        self._add_curves(episode, graph)
        if best:
            best.save(self.path / POLICY_FILE)
            picture = draw(graph, episode.counts)
            self._writer().add_image("best/kept", picture, episode.number, dataformats="HWC")

    def write_rows(
        self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        """Write a table of comma-separated values."""
        write_text(self.path / name, "".join(_line(cells) for cells in (header, *rows)))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write the figures of the run."""
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def write_details(self, details: Details) -> None:
        """Write what the run knows of layers and channels."""
        write_text(self.path / DETAILS_FILE, details.model_dump_json() + "\n")

    def saved(self) -> str:
        """What the search has left here until now, as part of a sentence."""
        if not self._episodes:
            return ""
        return (
            f"the {self._episodes} finished episodes are in {self.path / 'episodes.csv'}, the "
            f"best policy among them in {self.path / POLICY_FILE}"
        )

    def forget_state(self) -> None:
        """Remove what a finished run does not need: factors, and trainings but the base network's.

        They are much larger than all that a run leaves.
        """
        shutil.rmtree(self.preparation, ignore_errors=True)
        for path in self.path.rglob(f"{self.state.name}/*.pt*"):
            if path.stem != "base":
                path.unlink()

    def note_settings(
        self, settings: Mapping[str, str | int], figures: Mapping[str, float]
    ) -> None:
        """Write settings and final figures as TensorBoard's hyper-parameters, to compare runs by.

        ``SummaryWriter.add_hparams`` would write a run of its own, beside the one with the curves.
        """
        named = {f"final/{name}": value for name, value in figures.items()}
        # torch declares it as None, which it is once the writer is closed.
        events: Any = self._writer().file_writer
        for summary in hparams(dict(settings), named):
            events.add_summary(summary)
        for name, value in named.items():
            self._writer().add_scalar(name, value)

    def close(self) -> None:
        """Close the curves."""
        if self._curves is not None:
            self._curves.close()

    def _tidy_(self) -> None:
        """Remove what a kill left unfinished, and what the resumed run writes anew."""
        for path in self.path.glob(".*.part"):
            path.unlink(missing_ok=True)
        (self.path / ERROR_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.curves, ignore_errors=True)

    def _writer(self) -> SummaryWriter:
        if self._curves is None:
            raise RuntimeError(f"no search has begun in {self.path}; call begin_episodes first")
        return self._curves

    def _add_curves(self, episode: Episode, graph: ChannelGraph) -> None:
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
        for name, value in scalars.items():
            self._writer().add_scalar(name, value, episode.number)


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
