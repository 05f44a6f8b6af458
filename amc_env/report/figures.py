"""The charts of runs for papers: PNG and SVG, drawn by matplotlib.

The page's own charts are plotly's, whose export to files needs a browser; matplotlib needs none.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from amc_env.files import atomic
from amc_env.metric import Metric
from amc_env.report.charts import ACCENT, AFTER, BEFORE, error_curve, network_points, pareto
from amc_env.report.reading import FinishedRun, metric_of

_WIDTH, _HEIGHT = 6.0, 3.2
# Inches that a name of a group or layer needs beside others.
_NAME = 0.16


def write_figures(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write the figures of runs into a folder, and return their files.

    Those of several runs stand in a folder for each, numbered in the order in which the runs are
    given, beside the comparison of all of them.

    Raises:
        ValueError: A folder is not that of a finished run, or a file in it is damaged.
        OSError: A figure cannot be written.
    """
    runs = [FinishedRun.read(folder) for folder in folders]
    if len(runs) == 1:
        return _of_run(runs[0], out)
    written = save_figure(_front(runs), out / "accuracy_and_cost")
    for number, run in enumerate(runs, 1):
        written += _of_run(run, out / f"{number}-{run.name}")
    return written


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Save a figure as ``stem`` with the endings ``.png`` and ``.svg``, and return the files.

    The same figure gives the same files.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    # Text stays text, which can be searched; names within the file do not differ between runs.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "amc_env"}):
        for ending, metadata in (("png", {}), ("svg", {"Date": None})):
            path = stem.with_name(f"{stem.name}.{ending}")
            with atomic(path) as temporary:
                figure.savefig(temporary, format=ending, metadata=metadata, dpi=150)
            written.append(path)
    return written


def _of_run(run: FinishedRun, out: Path) -> list[Path]:
    drawn: Mapping[str, Callable[[FinishedRun], Figure]] = {
        "episodes": _episodes,
        "channels": _channels,
        "cost": _cost,
        **({"latency": _latency} if run.details.latencies else {}),
        "policies": _policies,
        "errors": _errors,
    }
    return [path for name, draw in drawn.items() for path in save_figure(draw(run), out / name)]


def _episodes(run: FinishedRun) -> Figure:
    """Reward and metric of every episode, and both of the best until then."""
    found = run.episodes
    numbers = range(1, len(found.rewards) + 1)
    figure = Figure(figsize=(_WIDTH, 1.4 * _HEIGHT), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(numbers, found.rewards, ".", color=BEFORE, label="reward")
    above.plot(numbers, found.best, color=AFTER, drawstyle="steps-post", label="best until then")
    above.set_ylabel("reward")
    above.legend()
    below.plot(numbers, found.accuracies, ".", color=BEFORE)
    below.plot(numbers, found.of_best, color=AFTER, drawstyle="steps-post")
    below.set(xlabel="episode", ylabel=run.metric.name)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(below, run.metric)
    return figure


def _channels(run: FinishedRun) -> Figure:
    """How many channels every group has and keeps."""
    groups = run.details.groups
    return _bars(
        [group.name for group in groups],
        [group.channels for group in groups],
        [group.kept for group in groups],
        unit="channels",
    )


def _cost(run: FinishedRun) -> Figure:
    """Multiply-accumulates of every layer before and after."""
    layers = run.details.layers
    return _bars(
        [layer.layer for layer in layers],
        [layer.macs_before for layer in layers],
        [layer.macs_after for layer in layers],
        unit="multiply-accumulates",
    )


def _latency(run: FinishedRun) -> Figure:
    """Milliseconds of every layer before and after."""
    found = run.details.latencies
    return _bars(
        [each.layer for each in found],
        [each.before_ms for each in found],
        [each.after_ms for each in found],
        unit="milliseconds",
        is_beside=True,
    )


def _policies(run: FinishedRun) -> Figure:
    """The sparsity of every group over the search."""
    found = run.episodes
    groups = len(found.groups)
    figure = Figure(figsize=(_WIDTH, max(_HEIGHT, _NAME * groups + 1)), layout="constrained")
    axes = figure.add_subplot(xlabel="episode")
    columns = list(zip(*found.sparsities, strict=True))
    image = axes.imshow(
        columns,
        aspect="auto",
        interpolation="nearest",
        vmin=0.0,
        vmax=1.0,
        extent=(0.5, len(found.sparsities) + 0.5, groups - 0.5, -0.5),
    )
    axes.set_yticks(range(groups), found.groups)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="sparsity")
    return figure


def _errors(run: FinishedRun) -> Figure:
    """The repair's error against sparsity for every group, with the chosen point."""
    figure, axes = _plain("sparsity", "relative error of the repair")
    for group in run.details.groups:
        sparsities, errors = error_curve(group)
        axes.plot(sparsities, errors, linewidth=1, label=group.name)
        chosen = group.kept - 1
        axes.plot(sparsities[chosen], errors[chosen], "D", markersize=4, color=ACCENT)
    # Names of dozens of groups would hide the curves.
    if len(run.details.groups) <= 12:
        axes.legend(fontsize="small")
    return figure


def _front(runs: Sequence[FinishedRun]) -> Figure:
    """The metric against multiply-accumulates of all networks, with those that no other beats."""
    metric = metric_of(runs)
    label = f"{metric.name} on the test data"
    figure, axes = _plain("multiply-accumulates for one sample", label)
    points = [(macs, accuracy) for run in runs for macs, accuracy, _ in network_points(run)]
    best = pareto(points)
    axes.plot(*zip(*points, strict=True), ".", color=AFTER, label="networks")
    axes.step(*zip(*best, strict=True), where="post", color=ACCENT, label="Pareto front")
    axes.xaxis.set_major_formatter(EngFormatter())
    _label(axes, metric)
    axes.legend()
    return figure


def _bars(
    names: list[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    unit: str,
    is_beside: bool = False,
) -> Figure:
    width = max(_WIDTH, _NAME * len(names) + 1)
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    axes = figure.add_subplot(ylabel=unit)
    places = range(len(names))
    # What can be greater after than before would hide it.
    wide, shift = (0.4, 0.2) if is_beside else (0.8, 0.0)
    axes.bar([x - shift for x in places], before, width=wide, color=BEFORE, label="original")
    axes.bar([x + shift for x in places], after, width=wide, color=AFTER, label="pruned")
    axes.set_xticks(places, names, rotation=90)
    if not is_beside:
        axes.yaxis.set_major_formatter(EngFormatter())
    axes.legend()
    return figure


def _label(axes: Axes, metric: Metric) -> None:
    """Show values of a metric in percent where they are shares."""
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _plain(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes
