"""A run's folder, read for a page."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amc_env.metric import Metric
from amc_env.report.details import DETAILS_FILE, Details

_SPARSITY = "sparsity/"


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The finished episodes of a run.

    Attributes:
        rewards: By episode.
        accuracies: The task's metric on the validation split, by episode.
        sparsities: By episode and group.
        groups: Names of the groups.
    """

    rewards: list[float]
    accuracies: list[float]
    sparsities: list[list[float]]
    groups: list[str]

    @property
    def best(self) -> list[float]:
        """The greatest reward until each episode."""
        return list(accumulate(self.rewards, max))

    @property
    def of_best(self) -> list[float]:
        """The metric of the episode with the greatest reward until each."""
        both = zip(self.rewards, self.accuracies, strict=True)
        return [accuracy for _, accuracy in accumulate(both, _better)]


def _better(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """That with the greater reward, the first; of equal ones the earlier, as in a search."""
    return other if other[0] > one[0] else one


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run left in its folder.

    Attributes:
        name: Name of the folder.
        metrics: Its figures.
        config: Its settings as text.
        episodes: Its finished episodes.
        details: Its layers and channels.
    """

    name: str
    metrics: dict[str, Any]
    config: str
    episodes: Episodes
    details: Details

    @property
    def metric(self) -> Metric:
        """What its accuracies are."""
        return Metric.of(self.metrics)

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Read a folder.

        Raises:
            ValueError: A file is missing or damaged.
        """
        metrics = _json(folder, "metrics.json")
        if "budgets" in metrics:
            parts = ", ".join(str(folder / name) for name in metrics["budgets"])
            raise ValueError(f"{folder} holds runs of several budgets; give some of {parts}")
        try:
            details = Details.model_validate(_json(folder, DETAILS_FILE))
        except ValidationError as error:
            raise _damaged(folder / DETAILS_FILE, error) from error
        return cls(
            name=folder.resolve().name,
            metrics=metrics,
            config=_text(folder, "config.yaml"),
            episodes=_episodes(folder),
            details=details,
        )


def metric_of(runs: Sequence[FinishedRun]) -> Metric:
    """The metric of all runs; where they differ, one that stands for each."""
    metrics = dict.fromkeys(run.metric for run in runs)
    is_share = all(metric.is_share for metric in metrics)
    return Metric(name=" or ".join(metric.name for metric in metrics), is_share=is_share)


def _episodes(folder: Path) -> Episodes:
    rows = list(csv.DictReader(_text(folder, "episodes.csv").splitlines()))
    groups = [name for name in (rows[0] if rows else {}) if name.startswith(_SPARSITY)]
    try:
        return Episodes(
            rewards=[float(row["reward"]) for row in rows],
            accuracies=[float(row["accuracy"]) for row in rows],
            sparsities=[[float(row[name]) for name in groups] for row in rows],
            groups=[name.removeprefix(_SPARSITY) for name in groups],
        )
    # An interrupted run may have left half a line, which has None for cells.
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / "episodes.csv", error) from error


def _json(folder: Path, name: str) -> dict[str, Any]:
    text = _text(folder, name)
    try:
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise _damaged(folder / name, error) from error
    return content


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"there is no {name} in {folder}; give the folder of a finished run")
    return path.read_text(encoding="utf-8")


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]
    return ValueError(f"{path} is damaged ({reason}); repeat the run, or give another folder")
