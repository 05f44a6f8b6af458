"""From numbers of channels to a compact, repaired network."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from amc_env.calibration import Calibration, calibrate
from amc_env.criteria import Criterion, channel_scores
from amc_env.data import Split
from amc_env.reconstruction import (
    DEFAULT_RIDGE,
    Keep,
    Reconstruction,
    reestimate_norms_,
    repaired_layers,
)
from amc_env.selection import ranking
from amc_env.sequential import SequentialSettings, repair_sequentially_
from amc_env.structure import ChannelGraph
from amc_env.unfolding import RowSampling


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How weights are repaired.

    Attributes:
        positions: Random output positions of each map that count; all if None.
        ridge: Pull towards the original weights, relative to the mean square of an input.
        batch: Calibration samples that run together.
        sequential: Whether every episode repairs layer by layer on what the pruned network really
            computes: better by far on narrow networks, and slower.
        sums: Whether that repair aims at the original sums of residual blocks.
        norms: Whether batch norms' statistics are estimated again on the calibration samples.
        seed: Draws the positions, and what criteria draw.
    """

    positions: int | None = 64
    ridge: float = DEFAULT_RIDGE
    batch: int = 50
    sequential: bool = False
    sums: bool = False
    norms: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A compact network, the channels that it keeps, and the seconds that its making took."""

    model: nn.Module
    kept: dict[str, Tensor]
    seconds: dict[str, float]


class Pruner:
    """Calibrates, scores and factors once; then any numbers of channels are a matter of moments.

    Args:
        graph: The structure of the model.
        samples: Calibration samples.
        criterion: Ranks the channels of each group.
        repair: How weights are repaired.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        samples: Split,
        criterion: Criterion,
        *,
        repair: RepairSettings | None = None,
    ) -> None:
        self.graph = graph
        self.criterion = criterion
        self._settings = repair or RepairSettings()
        self._sampling = RowSampling(positions=self._settings.positions, seed=self._settings.seed)
        self.calibration: Calibration = calibrate(
            graph.model,
            samples.inputs.split(self._settings.batch),
            layers=repaired_layers(graph),
            labels=samples.labels,
            sampling=self._sampling,
        )
        self._orders = {
            group.name: ranking(channel_scores(criterion, group, self.calibration))
            for group in graph.groups
        }
        self.plan = Reconstruction(
            graph,
            self.calibration,
            self._orders,
            ridge=self._settings.ridge,
            takes_grams=True,
        )

    def prune(self, keep: Mapping[str, Keep]) -> Pruned:
        """The compact network with those channels of every group, its readers repaired.

        A number keeps the best so many; indices keep those.
        """
        marks = [time.perf_counter()]
        kept = self.plan.kept(keep)
        marks.append(time.perf_counter())
        compact = self.graph.compact(kept)
        marks.append(time.perf_counter())
        self.plan.apply_(compact, kept)
        pruned = Pruned(model=compact, kept=kept, seconds={})
        if self._settings.sequential:
            self._repair_sequentially_(pruned)
        self._settle_(compact)
        marks.append(time.perf_counter())
        names = ("select", "compact", "repair")
        seconds = {
            name: after - before
            for name, before, after in zip(names, marks, marks[1:], strict=False)
        }
        return replace(pruned, seconds=seconds)

    def prune_sequentially(self, keep: Mapping[str, Keep]) -> nn.Module:
        """As ``prune``, each layer repaired on what the pruned network really gives it: slower."""
        pruned = self.prune(keep)
        if not self._settings.sequential:
            self._repair_sequentially_(pruned)
            self._settle_(pruned.model)
        return pruned.model

    def _repair_sequentially_(self, pruned: Pruned) -> None:
        repair_sequentially_(
            pruned.model,
            self.graph,
            pruned.kept,
            self.calibration.batches,
            settings=SequentialSettings(
                sampling=self._sampling, ridge=self._settings.ridge, sums=self._settings.sums
            ),
        )

    def _settle_(self, compact: nn.Module) -> None:
        if self._settings.norms:
            reestimate_norms_(compact, self.calibration.batches)
