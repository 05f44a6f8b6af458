"""The repairs that are compared, by name: functions of one pruning task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.repair import Pruner
from amc_env.repair.norms import rebase_norms_, reestimate_norms_
from amc_env.repair.sequential import repair_sequentially_
from benchmarks.rivals.folding import folded
from benchmarks.rivals.grail import compensated
from benchmarks.rivals.neuron_merging import merged

# Calibration images that GRAIL takes in its paper.
GRAIL_IMAGES = 128
# Norms are estimated on batches of this size, about that of training.
_NORM_BATCH = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One network to prune: which channels stay, and what a repair may read.

    Attributes:
        pruner: Calibrated on ``images``, with the criterion that ranks channels.
        counts: How many channels each group keeps.
        images: The calibration images.
    """

    pruner: Pruner
    counts: Mapping[str, int]
    images: Tensor

    @property
    def graph(self) -> ChannelGraph:
        """The structure of the original network."""
        return self.pruner.graph

    @property
    def kept(self) -> dict[str, Tensor]:
        """The channels that stay, the same for all repairs but folding."""
        return self.pruner.plan.kept(self.counts)


Repair = Callable[[Task], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A repair as a line of the table.

    Attributes:
        label: What the table calls it.
        repair: Makes the network.
        reads_data: Whether it reads calibration images; if not, one run serves all draws of them.
        is_planned: Whether it needs the calibration and factors that a ``Pruner`` computes once.
    """

    label: str
    repair: Repair
    reads_data: bool = True
    is_planned: bool = False


def with_norms_(model: nn.Module, images: Tensor) -> nn.Module:
    """The network with batch norms estimated again on images."""
    reestimate_norms_(model, images.split(_NORM_BATCH))
    return model


def unrepaired(task: Task) -> nn.Module:
    """The compact network as cutting leaves it."""
    return task.graph.compact(task.kept)


def adaptive_norms(task: Task) -> nn.Module:
    """Only batch norms are estimated again.

    Li, Wu, Su and Wang, *EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning*,
    ECCV 2020, section 3.3.
    """
    return with_norms_(unrepaired(task), task.images)


def neuron_merging(task: Task) -> nn.Module:
    """See ``benchmarks.rivals.neuron_merging``."""
    return merged(task.graph, task.kept)


def folding(task: Task) -> nn.Module:
    """See ``benchmarks.rivals.folding``; it clusters channels instead of choosing them."""
    return folded(task.graph, task.counts, seed=0)


def grail(task: Task, *, images: int | None = None) -> nn.Module:
    """See ``benchmarks.rivals.grail``; on the first ``images`` only, or on all."""
    return compensated(task.graph, task.kept, task.images[:images])


def plain(task: Task) -> nn.Module:
    """Ours, least squares on the original's inputs of kernels, all layers independently."""
    compact = unrepaired(task)
    task.pruner.plan.apply_(compact, task.kept)
    return compact


def sequential(task: Task, *, sums: bool = False) -> nn.Module:
    """Ours, layer by layer on what the pruned network computes; ``sums`` are residual ones."""
    compact, batches = plain(task), task.pruner.calibration.batches
    settings = replace(task.pruner.repair.by_layer, match_residual_sums=sums)
    repair_sequentially_(compact, task.graph, task.kept, batches, settings=settings)
    rebase_norms_(compact, batches)
    return compact


METHODS: Mapping[str, Method] = {
    "none": Method(label="no repair", repair=unrepaired, reads_data=False),
    "norms": Method(label="norms estimated again (EagleEye)", repair=adaptive_norms),
    "merging": Method(label="neuron merging", repair=neuron_merging, reads_data=False),
    "merging_norms": Method(
        label="neuron merging, norms", repair=lambda t: with_norms_(neuron_merging(t), t.images)
    ),
    "folding": Method(label="folding, Fold-AR", repair=folding, reads_data=False),
    "folding_norms": Method(
        label="folding, Fold-R (norms)", repair=lambda t: with_norms_(folding(t), t.images)
    ),
    "grail_128": Method(label="GRAIL, 128 images", repair=lambda t: grail(t, images=GRAIL_IMAGES)),
    "grail_128_norms": Method(
        label="GRAIL, 128 images, norms",
        repair=lambda t: with_norms_(grail(t, images=GRAIL_IMAGES), t.images[:GRAIL_IMAGES]),
    ),
    "grail": Method(label="GRAIL, all images", repair=grail),
    "grail_norms": Method(
        label="GRAIL, all images, norms", repair=lambda t: with_norms_(grail(t), t.images)
    ),
    "plain": Method(label="ours, plain", repair=plain, is_planned=True),
    "plain_norms": Method(
        label="ours, plain, norms",
        repair=lambda t: with_norms_(plain(t), t.images),
        is_planned=True,
    ),
    "sequential": Method(label="ours, sequential", repair=sequential, is_planned=True),
    "sequential_sums": Method(
        label="ours, sequential, residual sums",
        repair=lambda t: sequential(t, sums=True),
        is_planned=True,
    ),
}
# Every difference in the table is to this one.
REFERENCE = "sequential"


def checked_methods(names: Sequence[str]) -> dict[str, Method]:
    """The methods of these names, the reference always among them.

    Raises:
        ValueError: There is no such method.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"method {unknown[0]!r} does not exist; choose {', '.join(METHODS)}")
    return {name: method for name, method in METHODS.items() if name in (*names, REFERENCE)}
