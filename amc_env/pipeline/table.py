"""The runs of a folder as tables: ``uv run python -m amc_env.pipeline.table runs/SWEEP``."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from amc_env.metric import ACCURACY, Metric

Cells = list[str]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one job left in its folder.

    Attributes:
        name: The folder, relative to that of all jobs.
        settings: The run's settings but the seed, by dotted key.
        metrics: The figures of its ``metrics.json``; empty if it failed.
        error: Why it failed, or nothing.
    """

    name: str
    settings: Mapping[str, str]
    metrics: Mapping[str, Any]
    error: str = ""

    @property
    def metric(self) -> Metric:
        """What its accuracies are."""
        return Metric.of(self.metrics)

    @property
    def accuracies(self) -> dict[str, float]:
        """Test accuracies, or another task's metric, by stage; of other agents by agent and stage.

        Those on the original images alone, where the data marks them, stand beside them.
        """
        own = f"{self.metrics['agent']}, "
        marked = self.metrics.get("test_accuracies_on_originals", {})
        given = {
            **self.metrics["test_accuracies"],
            **{f"{name}, originals": accuracy for name, accuracy in marked.items()},
        }
        return {name.removeprefix(own): accuracy for name, accuracy in given.items()}


def read_runs(folder: Path) -> list[RunRecord]:
    """The jobs below a folder, finished or failed, in the order of their names.

    A job with several budgets is as many jobs, one for each budget that is finished.

    Raises:
        ValueError: There are none, or a file of one cannot be read.
    """
    ends = ("metrics.json", "error.json")
    jobs = sorted({path.parent for end in ends for path in folder.rglob(end)})
    if not jobs:
        raise ValueError(f"there is no metrics.json below {folder}; give the folder of runs")
    runs = [read_run(job, folder) for job in jobs]
    return [run for run in runs if "budgets" not in run.metrics]


def tabulate(runs: Sequence[RunRecord]) -> str:
    """Every run, every group of runs that differ in the seed alone, and every failure."""
    finished = [run for run in runs if not run.error]
    parts = []
    if finished:
        differing = _differing(finished)
        parts = [_runs_table(finished, differing), _groups_table(finished, differing)]
    failed = [[run.name, run.error] for run in runs if run.error]
    if failed:
        parts.append(markdown(["failed", "why"], failed, texts=2))
    return "\n\n".join(parts)


def _runs_table(runs: Sequence[RunRecord], differing: Sequence[str]) -> str:
    columns = _columns(runs)
    header = [*differing, "seed", "kept", "MACs", "parameters", *columns, "seconds"]
    rows = []
    for run in runs:
        metrics, found = run.metrics, run.accuracies
        mark = "" if metrics["is_complete"] else " (interrupted)"
        rows.append(
            [
                *(run.settings.get(key, "") for key in differing),
                f"{metrics['seed']}{mark}",
                metrics["kept"],
                f"{metrics['flops_ratio']:.3f}",
                f"{metrics['params_ratio']:.3f}",
                *(run.metric.text(found[name]) if name in found else "" for name in columns),
                f"{metrics['seconds']:.0f}",
            ]
        )
    return markdown(header, rows, texts=len(differing) + 2)


def _groups_table(runs: Sequence[RunRecord], differing: Sequence[str]) -> str:
    """Medians over seeds; an interrupted run searched for less long, so it is left out."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        members = groups.setdefault(tuple(run.settings.get(key, "") for key in differing), [])
        if run.metrics["is_complete"]:
            members.append(run)
    columns = _columns(runs)
    medians = [f"{name}: median (range)" for name in columns]
    header = [*differing, "seeds", "MACs", "parameters", *medians]
    rows = []
    for values, members in groups.items():
        found = [member.accuracies for member in members]
        rows.append(
            [
                *values,
                str(len({member.metrics["seed"] for member in members})),
                *(_median(members, key) for key in ("flops_ratio", "params_ratio")),
                *(_spread([f[name] for f in found if name in f], members) for name in columns),
            ]
        )
    return markdown(header, rows, texts=len(differing))


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """Settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def _columns(runs: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.accuracies))


def _median(runs: Sequence[RunRecord], key: str) -> str:
    return f"{statistics.median(run.metrics[key] for run in runs):.3f}" if runs else ""


def _spread(values: Sequence[float], runs: Sequence[RunRecord]) -> str:
    return spread(values, runs[0].metric) if runs else ""


def spread(values: Sequence[float], metric: Metric = ACCURACY) -> str:
    """The median of a metric's values, and their range."""
    if not values:
        return ""
    each = (statistics.median(values), min(values), max(values))
    median, low, high = map(metric.text, each)
    return f"{median} ({low} to {high})"


def markdown(header: Sequence[str], rows: Sequence[Cells], *, texts: int) -> str:
    """A table in Markdown, whose first columns are texts and the others numbers."""
    rules = ["---"] * texts + ["--:"] * (len(header) - texts)
    # A vertical bar would end the cell.
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in ([*header], rules, *lines))


def read_run(job: Path, folder: Path) -> RunRecord:
    """What a job left in its folder, which is below the folder of all jobs.

    Raises:
        ValueError: A file of it is missing or damaged.
    """
    name = str(job.relative_to(folder))
    failure = job / "error.json"
    if failure.is_file():
        return RunRecord(name=name, settings={}, metrics={}, error=_read_json(failure)["error"])
    config = job / "config.yaml"
    if not config.is_file():
        raise ValueError(
            f"there is no config.yaml beside {job / 'metrics.json'}, so it is not known which "
            "runs differ in the seed alone; give the folder as the runs wrote it"
        )
    settings = dict(_flat(OmegaConf.to_container(OmegaConf.load(config)), ""))
    settings.pop("seed", None)
    return RunRecord(name=name, settings=settings, metrics=_read_json(job / "metrics.json"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it or repeat the run") from error
    return content


def _flat(node: object, prefix: str) -> Iterator[tuple[str, str]]:
    """Settings by dotted key; a list is one setting."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(node)


def main() -> None:
    """Print the tables of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        text = tabulate(read_runs(parser.parse_args().folder))
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
