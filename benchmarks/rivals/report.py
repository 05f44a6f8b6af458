"""Tables of runs: accuracies, and differences to one repair with their intervals."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.rivals.experiment import UNIFORM, Run

# Of a normal distribution 95 % lie within so many deviations.
_WIDE = 1.96

COLUMNS = ("images", "allocation", "repair", "seed", "macs_ratio", "accuracy", "seconds")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of accuracies, and half the width of its interval of 95 %."""

    mean: float
    half_width: float

    @override
    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ± {100 * self.half_width:.1f}"


def difference(runs: Sequence[Run], reference: Sequence[Run], images: Tensor) -> Difference:
    """How much more accurate some runs are than others, paired over the test images.

    Each image counts with the mean over the draws of calibration images on both sides. The interval
    is that of the mean of these differences for other test images, by the normal distribution.

    Args:
        runs: Runs of one repair.
        reference: Runs of the other.
        images: Which of the test images count, as a mask.
    """
    gained = _by_image(runs, images) - _by_image(reference, images)
    error = float(gained.std()) / len(gained) ** 0.5
    return Difference(mean=float(gained.mean()), half_width=_WIDE * error)


def accuracies(runs: Sequence[Run], images: Tensor) -> list[float]:
    """The accuracy of each run on some of the test images."""
    return [float(run.is_right[images].double().mean()) for run in runs]


def markdown(runs: Sequence[Run], images: Tensor, *, reference: str) -> str:
    """Two tables: repairs side by side on every allocation, and allocations with few repairs.

    Args:
        runs: All runs.
        images: Which of the test images count, as a mask.
        reference: Label of the repair that others are compared with.
    """
    methods = {name: _methods(runs, name) for name in _names(runs)}
    compared = [name for name in methods if reference in methods[name]]
    outside = [name for name in methods if reference not in methods[name]]
    parts = [_side_by_side(runs, images, compared, reference)]
    if outside:
        parts.append(_outside(runs, images, outside, reference))
    return "\n\n".join(parts)


def write_rows(path: Path, runs: Sequence[Run], images: dict[str, Tensor]) -> None:
    """A CSV file with a row for every run and every set of test images."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, mask in images.items():
            for run, accuracy in zip(runs, accuracies(runs, mask), strict=True):
                start = (name, run.allocation, run.method, run.seed)
                numbers = (f"{run.macs_ratio:.4f}", f"{accuracy:.4f}", f"{run.seconds:.1f}")
                writer.writerow((*start, *numbers))


def _side_by_side(
    runs: Sequence[Run], images: Tensor, allocations: Sequence[str], reference: str
) -> str:
    """A line for every repair, three columns for every allocation."""
    heads = [f"{name}, {_macs(_chosen(runs, name))} MACs" for name in allocations]
    cells = [
        [f"**{reference}**" if method == reference else method]
        + [
            cell
            for name in allocations
            for cell in _cells(_chosen(runs, name, method), _chosen(runs, name, reference), images)
        ]
        for method in _methods(runs, allocations[0])
    ]
    columns = ["repair", *(c for head in heads for c in (head, "difference", "s"))]
    return _table(columns, cells)


def _outside(
    runs: Sequence[Run], images: Tensor, allocations: Sequence[str], reference: str
) -> str:
    """A line for every repair of every allocation, compared with the reference on uniform ones."""
    aim = _chosen(runs, UNIFORM, reference)
    cells = [
        [name, _macs(chosen), method, *_cells(chosen, aim, images)]
        for name in allocations
        for method in _methods(runs, name)
        if (chosen := _chosen(runs, name, method))
    ]
    columns = ["allocation", "MACs", "repair", "accuracy", f"difference to {UNIFORM}", "s"]
    return _table(columns, cells)


def _cells(runs: Sequence[Run], reference: Sequence[Run], images: Tensor) -> list[str]:
    """Accuracy with its deviation over draws, difference and seconds."""
    found = [100 * accuracy for accuracy in accuracies(runs, images)]
    spread = f" (± {statistics.stdev(found):.1f})" if len(set(found)) > 1 else ""
    seconds = statistics.fmean(run.seconds for run in runs)
    gained = "" if runs == reference else str(difference(runs, reference, images))
    return [f"{statistics.fmean(found):.1f}{spread}", gained, f"{seconds:.1f}"]


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rules = ["---" if _is_text(column) else "--:" for column in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rules, *cells))


def _is_text(column: str) -> bool:
    return column in ("repair", "allocation")


def _by_image(runs: Sequence[Run], images: Tensor) -> Tensor:
    return torch.stack([run.is_right[images].double() for run in runs]).mean(0)


def _chosen(runs: Sequence[Run], allocation: str, method: str | None = None) -> list[Run]:
    return [r for r in runs if r.allocation == allocation and method in (None, r.method)]


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.allocation for run in runs))


def _methods(runs: Sequence[Run], allocation: str) -> list[str]:
    return list(dict.fromkeys(run.method for run in _chosen(runs, allocation)))


def _macs(runs: Sequence[Run]) -> str:
    return f"{statistics.fmean(run.macs_ratio for run in runs):.3f}"
