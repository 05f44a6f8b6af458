"""How the scores of a layer's channels are distributed after every round of pruning.

Musat and Andonie, "Accelerating Convolutional Neural Network Pruning via Spatial Aura Entropy",
2023, tables 4 and 5: histograms of the mutual information of two layers of VGG-16, by the kernel
estimate and by spatial aura entropy. Beside them, the scores of all layers.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amc_env.pipeline.rounds import GroupScores, Iteration, Iterations
from amc_env.studies.pictures import save
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.results import finished
from amc_env.studies.works.work import Table, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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
    """The pictures of the paper's layers, and one of all layers."""
    runs = {_named(run): Iterations.load(run.folder).iterations for run in finished(plan.runs)}
    for layer in plan.options["layers"]:
        yield _draw_layer(runs, layer, plan.folder / f"scores-{layer.replace('.', '-')}")
    yield _draw_all_layers(runs, plan.folder / "scores-by-layer")


def _draw_layer(runs: Mapping[str, Sequence[Iteration]], layer: str, stem: Path) -> Path:
    """Histograms of a layer's scores: a row for each run, a column for each round."""
    rounds = len(next(iter(runs.values())))
    figure, axes = _places(len(runs), rounds, width=2.6)
    for line, (name, iterations) in zip(axes, runs.items(), strict=True):
        for place, iteration in zip(line, iterations, strict=True):
            (group,) = (group for group in iteration.groups if group.name == layer)
            place.hist(group.scores, bins=_BARS)
            place.set_title(f"{name}: {len(group.scores)} channels", fontsize="small")
    return save(figure, stem)


def _draw_all_layers(runs: Mapping[str, Sequence[Iteration]], stem: Path) -> Path:
    """The scores of every layer of the original network and of the last: a row for each run."""
    figure, axes = _places(len(runs), 2, width=5.0)
    for line, (name, iterations) in zip(axes, runs.items(), strict=True):
        for place, iteration in zip(line, (iterations[0], iterations[-1]), strict=True):
            place.boxplot([group.scores for group in iteration.groups], flierprops={"ms": 2})
            names = [group.name for group in iteration.groups]
            place.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize="x-small")
            when = f"after round {iteration.number}" if iteration.number else "before any round"
            place.set_title(f"{name}, {when}", fontsize="small")
    return save(figure, stem)


def _places(rows: int, columns: int, *, width: float) -> "tuple[Figure, NDArray[Any]]":
    """A figure with places for so many pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, 2.2 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _named(run: PlannedRun) -> str:
    return f"{', '.join(run.cell.values.values())}, seed {run.cell.seed}"


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


DISTRIBUTIONS = Work(compute=None, table=table, draw=draw, legend=LEGEND)
