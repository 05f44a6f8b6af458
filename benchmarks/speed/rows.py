"""The rows of the benchmark, in the order in which they run."""

from benchmarks.speed import episodes, repair, scores, structure, workers
from benchmarks.speed.records import Row

ROWS: tuple[Row, ...] = (
    Row(
        name="analysis",
        about="`ChannelGraph`, which proves every cut, beside torch-pruning's dependency graph.",
        measure=structure.analysis,
    ),
    Row(
        name="compaction",
        about="Half the channels of every group gone, beside one step of torch-pruning's "
        "`MagnitudePruner`, which scores the channels as well.",
        measure=structure.compaction,
    ),
    Row(
        name="costs",
        about="Costs of hypothetical policies: with all groups changed, and with one.",
        measure=structure.costs,
    ),
    Row(
        name="calibration",
        about="Gram matrices of all repaired layers, beside a plain forward pass.",
        measure=repair.calibration,
    ),
    Row(
        name="memory",
        about="Calibration and factoring in a fresh process; MiB above what was resident before.",
        measure=repair.memory,
    ),
    Row(
        name="repair",
        about="Weights of all plain layers at half the channels: from the factored plan, by a "
        "Cholesky factorisation of the same sums at these channels, and by scikit-learn's `fit` on "
        "the original AMC's rows.",
        measure=repair.repair,
    ),
    Row(
        name="entropy",
        about="Spatial entropy at 256 bins. scikit-image's ways are timed on a few channels and "
        "scaled.",
        measure=scores.entropy,
    ),
    Row(
        name="criteria",
        about="All groups scored by each criterion on 100 samples, beside a forward pass of them.",
        measure=scores.criteria,
    ),
    Row(
        name="episode",
        about="An episode at half the FLOPs by phase, wall clock, beside a float32 forward pass of "
        "the same validation images.",
        measure=episodes.phases,
    ),
    Row(
        name="ddpg",
        about="A gradient step of AMC's DDPG on the CPU, beside stable-baselines3's DDPG, whose "
        "networks are as they come.",
        measure=episodes.update,
    ),
    Row(
        name="growth",
        about="Time and memory with depth, number of images and width, each in a fresh process; "
        "MiB above what was resident before.",
        measure=repair.growth,
    ),
    Row(
        name="search",
        about="A search by `ddpg`, its environment prepared, wall clock.",
        measure=episodes.search,
        opt_in=True,
    ),
    Row(
        name="workers",
        about="A random search in float32 by one process, by two workers, and by two on a Ray "
        "cluster of this machine where Ray is installed, wall clock, one thread each. All find the "
        "same episodes.",
        measure=workers.workers,
        opt_in=True,
    ),
)


def chosen(names: list[str]) -> tuple[Row, ...]:
    """The rows of these names; without any, all that are not to be asked for.

    Raises:
        ValueError: There is no such row.
    """
    known = {row.name: row for row in ROWS}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no row {name!r}; choose from {', '.join(known)}")
    return tuple(known[n] for n in names) or tuple(row for row in ROWS if not row.opt_in)
