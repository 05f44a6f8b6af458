"""From the networks of a study to the cells of its table."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from amc_env import metric
from amc_env.pipeline.table import spread
from amc_env.studies.intervals import paired_difference
from amc_env.studies.plan import Plan
from amc_env.studies.results import NOTHING, Result, Row, read_rows
from amc_env.studies.study import Figures, Study, key_of

ACCURACY = "test_accuracies"
ORIGINALS = "test_accuracies_on_originals"
TOP5 = "test_top5_accuracies"

Header = list[str]
Cells = list[str]


# Further columns that a study may ask for: their titles, and the figure of a run.
COLUMNS: Mapping[str, tuple[str, Callable[[Result], float | None], str]] = {
    "top5": ("top-5", lambda result: result.figure(TOP5), ".2%"),
    "validation": (
        "accuracy in the search (validation split)",
        lambda result: result.metrics["validation_accuracy"],
        ".2%",
    ),
    "reward": ("reward", lambda result: result.metrics["reward"], ".4f"),
    "spread": (
        "rewards of the search, greatest minus least",
        lambda result: result.metrics["reward_spread"],
        ".4f",
    ),
    "ranking": ("seconds of ranking", lambda result: result.metrics["ranking_seconds"], ".1f"),
    "episode": (
        "seconds of an episode",
        lambda result: sum(result.metrics["episode_seconds"].values()),
        ".2f",
    ),
}


def tabulated(plan: Plan) -> tuple[Header, list[Cells]]:
    """The table of a study whose runs prune networks."""
    rows = read_rows(plan)
    shown = _Shown(plan.study, rows)
    axes = list(plan.study.axes_at(plan.scale))
    header = [*axes, "seeds", "MACs", "parameters", *shown.header(axes), "seconds"]
    return header, [shown.cells(row, axes) for row in rows]


class _Shown:
    """The columns of a table, of which some depend on what its rows have."""

    def __init__(self, study: Study, rows: Sequence[Row]) -> None:
        self._study = study
        self._rows = {row.values: row for row in rows}
        self._has_originals = any(row.numbers(_of(ORIGINALS)) for row in rows)
        self._extra = [COLUMNS[name] for name in study.columns]

    def header(self, axes: Sequence[str]) -> Header:
        """The titles between parameters and seconds."""
        marked = ["accuracy on original images"] if self._has_originals else []
        to = ", ".join(v for a, v in self._study.reference.items() if a in axes)
        difference = [f"difference to {to} in points (95 %)"] if to else []
        titles = [title for title, _, _ in self._extra]
        return [
            "accuracy: median (range)", *marked, *difference, *titles,
            "published", "published parameters",
        ]  # fmt: skip

    def cells(self, row: Row, axes: Sequence[str]) -> Cells:
        """One line of the table."""
        published = self._published(row)
        marked = [_spread(row, ORIGINALS)] if self._has_originals else []
        difference = [self._difference(row, axes)] if self._study.reference else []
        return [
            *row.values,
            str(1 if row.is_original else len(row.results)),
            _size(row, "network_flops", millions=True),
            _size(row, "network_params"),
            _spread(row, ACCURACY),
            *marked,
            *difference,
            *(
                NOTHING if row.is_original else _median(row, of, form)
                for _, of, form in self._extra
            ),
            _said(published),
            NOTHING if published.params is None else f"{published.params:,}",
            NOTHING if row.is_original else _median(row, lambda r: r.metrics["seconds"], ".0f"),
        ]

    def _published(self, row: Row) -> Figures:
        published = self._study.published
        if row.is_original:
            return published.original
        return published.rows.get(key_of(row.values), Figures())

    def _difference(self, row: Row, axes: Sequence[str]) -> str:
        """The difference to the row that has the reference's values in place of this row's."""
        if row.is_original:
            return NOTHING
        own = dict(zip(axes, row.values, strict=True))
        meant = {**own, **self._study.reference}
        other = self._rows.get(tuple(meant[axis] for axis in axes))
        if other is row:
            return "reference"
        pairs = _paired(row, other) if other else []
        if not pairs:
            return NOTHING
        ours, theirs = (np.stack(each) for each in zip(*pairs, strict=True))
        found = paired_difference(ours, theirs)
        mean, low, high = (100 * x for x in (found.mean, found.low, found.high))
        return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) {found.verdict}"


def _said(published: Figures) -> str:
    """What a paper prints of a network beside its parameters."""
    accuracy = "" if published.accuracy is None else f"{published.accuracy:.2f}%"
    top5 = "" if published.top5 is None else f"{published.top5:.2f}% top-5"
    return "; ".join(text for text in (accuracy, top5, published.note) if text) or NOTHING


def _paired(row: Row, other: Row) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which images both classify correctly, for every seed that both have."""
    known = {result.seed: result for result in other.results}
    return [(r.correct(), known[r.seed].correct()) for r in row.results if r.seed in known]


def _of(key: str) -> Callable[[Result], float | None]:
    return lambda result: result.figure(key)


def _spread(row: Row, key: str) -> str:
    found = row.numbers(_of(key))
    return metric.ACCURACY.text(found[0]) if row.is_original else spread(found) or NOTHING


def _median(row: Row, of: Callable[[Result], float | None], form: str) -> str:
    found = row.median(of)
    return NOTHING if found is None else f"{found:{form}}"


def _size(row: Row, key: str, *, millions: bool = False) -> str:
    """A median number and its share of the original network's."""
    number, share = row.median(_of(key)), row.median(lambda result: result.share(key))
    text = f"{(number or 0) / 1e6:,.2f} M" if millions else f"{number:,.0f}"
    return f"{text} ({share:.3f})"
