"""How the scores of a layer's channels are distributed after every round of pruning.

Musat and Andonie, "Accelerating Convolutional Neural Network Pruning via Spatial Aura Entropy",
2023, tables 4 and 5: histograms of the mutual information of two layers of VGG-16, by the kernel
estimate and by spatial aura entropy.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from amc_env.pipeline.rounds import GroupScores, Iteration, Iterations
from amc_env.studies.pictures import save
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.results import finished
from amc_env.studies.works.work import Table, Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 20

LEGEND = (
    "Scores of the channels that are left, ranked in the network as it is after the round. The two "
    "measures have other ranges, so that shapes can be compared and values cannot."
)


def table(plan: Plan) -> Table:
    """A row for every layer after every round of every run."""
    axes = list(plan.runs[0].cell.values)
    header = [
        *axes, "seed", "layer", "round", "channels", "median score", "least", "greatest",
        "standard deviation", "accuracy on held-out training images",
    ]  # fmt: skip
    lines = [
        [*run.cell.values.values(), str(run.cell.seed), *_cells(iteration, group)]
        for run in finished(plan.runs)
        for iteration in Iterations.load(run.folder).iterations
        for group in _chosen(plan, iteration)
    ]
    return header, lines


def draw(plan: Plan) -> Iterator[Path]:
    """A picture of every layer: a row of histograms for each run, a column for each round."""
    from matplotlib.figure import Figure

    runs = finished(plan.runs)
    for layer in plan.options["layers"]:
        each = [(run, _of_layer(run, layer)) for run in runs]
        rounds = len(each[0][1])
        size = (2.6 * rounds, 2.2 * len(each))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(each), rounds, squeeze=False)
        for line, (run, groups) in zip(axes, each, strict=True):
            for place, group in zip(line, groups, strict=True):
                _draw_histogram(place, run, group)
        yield save(figure, plan.folder / f"scores-{layer.replace('.', '-')}")


def _draw_histogram(axes: "Axes", run: PlannedRun, group: GroupScores) -> None:
    axes.hist(group.scores, bins=_BARS)
    named = ", ".join(run.cell.values.values())
    axes.set_title(f"{named}: {len(group.scores)} channels", fontsize="small")


def _cells(iteration: Iteration, group: GroupScores) -> list[str]:
    scores = group.scores
    figures = (statistics.median(scores), min(scores), max(scores), statistics.pstdev(scores))
    return [
        group.name,
        str(iteration.number),
        str(len(scores)),
        *(f"{figure:.4f}" for figure in figures),
        f"{iteration.held_out_accuracy:.2%}",
    ]


def _chosen(plan: Plan, iteration: Iteration) -> list[GroupScores]:
    """The groups of the layers that the study shows.

    Raises:
        ValueError: The network has no such group.
    """
    found = [group for group in iteration.groups if group.name in plan.options["layers"]]
    if len(found) < len(plan.options["layers"]):
        known = ", ".join(group.name for group in iteration.groups)
        raise ValueError(
            f"the study shows {', '.join(plan.options['layers'])}, but the groups of the network "
            f"are {known}"
        )
    return found


def _of_layer(run: PlannedRun, layer: str) -> list[GroupScores]:
    iterations = Iterations.load(run.folder).iterations
    return [g for iteration in iterations for g in iteration.groups if g.name == layer]


DISTRIBUTIONS = Work(compute=None, table=table, draw=draw, legend=LEGEND)
