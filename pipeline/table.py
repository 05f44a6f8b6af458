"""The runs of a folder in one table: ``uv run python -m pipeline.table runs/SWEEP``."""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Metrics = Mapping[str, Any]


def read_metrics(folder: Path) -> list[Metrics]:
    """The figures of every finished run below a folder.

    Raises:
        ValueError: There is none.
    """
    found = [
        json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("metrics.json"))
    ]
    if not found:
        raise ValueError(f"there is no metrics.json below {folder}; give the folder of runs")
    return found


def tabulate(runs: Sequence[Metrics]) -> str:
    """Test accuracies of every run in Markdown, and their medians."""
    columns = list(dict.fromkeys(name for run in runs for name in run["test_accuracies"]))
    named = ("model", "reward_name", "criterion", "seed")
    lines = [
        "| " + " | ".join([*named, "FLOPs", *columns, "seconds"]) + " |",
        "| " + " | ".join(["---"] * len(named) + ["--:"] * (len(columns) + 2)) + " |",
    ]
    for run in runs:
        cells = [str(run[name]) for name in named] + [f"{run['flops_ratio']:.3f}"]
        cells += [_percent(run["test_accuracies"].get(name)) for name in columns]
        lines.append("| " + " | ".join([*cells, f"{run['seconds']:.0f}"]) + " |")
    middles = [
        _percent(statistics.median(r["test_accuracies"].get(name, float("nan")) for r in runs))
        for name in columns
    ]
    lines.append("| median | | | | | " + " | ".join(middles) + " | |")
    return "\n".join(lines)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def main() -> None:
    """Print the table of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        text = tabulate(read_metrics(parser.parse_args().folder))
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
