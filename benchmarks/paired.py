"""The networks of a finished run, compared image by image on the test data.

Every network's accuracy, and how far it is ahead of the network in the row above, with a paired
interval of 95 % (bootstrap over images). Where the data marks original images, the same on those.

    uv run python -m benchmarks.paired RUN
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amc_env.pipeline.accuracies import PREDICTIONS_FILE
from amc_env.studies.intervals import Booleans, paired_difference

_LABEL, _MARK = "label", "is_original"
Classes = dict[str, NDArray[np.int64]]


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    print(table(read(parser.parse_args().run / PREDICTIONS_FILE)))


def read(path: Path) -> Classes:
    """The columns of a run's predictions."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    columns = np.array(lines, dtype=np.int64).T
    return dict(zip(header, columns, strict=True))


def table(columns: Classes) -> str:
    """A Markdown table with a line for each network."""
    label = columns[_LABEL]
    images = {f"all {len(label)}": np.ones(len(label), dtype=bool)}
    if _MARK in columns:
        marked = columns[_MARK] == 1
        images = {f"{marked.sum()} originals": marked} | images
    heads = ["network", *(f"{name}{what}" for name in images for what in ("", ", ahead by"))]
    lines = [heads, ["---", *("--:" for _ in heads[1:])]]
    networks = {name: own == label for name, own in columns.items() if name not in (_LABEL, _MARK)}
    above: Booleans | None = None
    for name, is_right in networks.items():
        pairs = [_cells(is_right, above, chosen) for chosen in images.values()]
        lines.append([name, *(cell for pair in pairs for cell in pair)])
        above = is_right
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(is_right: Booleans, above: Booleans | None, chosen: Booleans) -> tuple[str, str]:
    """An accuracy in per cent, and the difference to the network above."""
    accuracy = f"{100 * is_right[chosen].mean():.2f}"
    if above is None:
        return accuracy, ""
    found = paired_difference(is_right[None, chosen], above[None, chosen])
    return accuracy, f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


if __name__ == "__main__":
    main()
