"""Makes a compact, repaired network from the channels that each group keeps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.calibration import Calibration, calibrate
from amc_env.calibration.rows import RowSampling
from amc_env.criteria import Criterion, channel_scores
from amc_env.criteria.ranking import ranking
from amc_env.data import Split
from amc_env.precision import Format
from amc_env.repair.norms import has_running_norms, reestimate_norms_
from amc_env.repair.plan import (
    DEFAULT_RIDGE,
    Keep,
    Reconstruction,
    repaired_layers,
)
from amc_env.repair.sequential import SequentialRepair, SequentialSettings
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How weights are repaired.

    Attributes:
        sampled_positions: Random output positions of each map that count; all if None.
        ridge: Pull towards the original weights, relative to the mean square of an input.
        calibration_batch: Calibration samples that run together.
        sequential: Whether every episode repairs layer by layer on the activations of the pruned
            network itself, as the network that is kept in the end is repaired.
        episode_samples: Calibration samples that the sequential repair of an episode reads; all if
            None. The network that is kept in the end is repaired on all.
        match_residual_sums: Whether the sequential repair aims at the original sums of residual
            blocks.
        norm_samples: Calibration samples on which the statistics of batch norms are estimated again
            after the plain repair; none if 0. The sequential repair corrects them by itself.
        seed: The seed of the positions, and of criteria that draw at random.
    """

    sampled_positions: int | None = 16
    ridge: float = DEFAULT_RIDGE
    calibration_batch: int = 64
    sequential: bool = True
    episode_samples: int | None = 128
    match_residual_sums: bool = True
    norm_samples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sampled_positions", "calibration_batch", "episode_samples"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; give 1 or more")
        if not self.ridge >= 0:
            raise ValueError(f"ridge is {self.ridge}; give 0 or more")
        if self.norm_samples < 0 or (self.sequential and self.norm_samples):
            raise ValueError(
                f"norm_samples is {self.norm_samples} and sequential is {self.sequential}; give "
                "0 or more, and 0 unless sequential is false"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A compact network, the channels that it keeps, and the seconds that each step took."""

    model: nn.Module
    kept: dict[str, Tensor]
    seconds: dict[str, float]


class Pruner:
    """Prune a network repeatedly: calibration, scores and factorisations are computed once here.

    Args:
        graph: The structure of the model.
        samples: Calibration samples.
        criterion: Ranks the channels of each group.
        repair: How weights are repaired.
        norm_format: How networks are run to estimate the statistics of their norms again.

    Attributes:
        scores: The criterion's score of every channel, by group.

    Raises:
        ValueError: ``repair`` asks for norms to be estimated again, and the model has none.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        samples: Split,
        criterion: Criterion,
        *,
        repair: RepairSettings | None = None,
        norm_format: Format | None = None,
    ) -> None:
        self.graph = graph
        self.criterion = criterion
        self._settings = repair or RepairSettings()
        # Known now; an episode would find out only after calibration and factoring.
        if self._settings.norm_samples and not has_running_norms(graph.model):
            raise ValueError(
                f"norm_samples is {self._settings.norm_samples}, but the network has no batch norm "
                "with running statistics to estimate again; give norm_samples=0"
            )
        self._sampling = RowSampling(
            positions=self._settings.sampled_positions, seed=self._settings.seed
        )
        self._norm_format = norm_format or Format()
        few = samples.inputs[: self._settings.norm_samples]
        self._norm_samples = self._norm_format.arrange(few)
        self.calibration: Calibration = calibrate(
            graph.model,
            samples.inputs.split(self._settings.calibration_batch),
            layers=repaired_layers(graph),
            labels=samples.labels,
            sampling=self._sampling,
        )
        self.scores = {
            group.name: channel_scores(criterion, group, self.calibration) for group in graph.groups
        }
        self._orders = {name: ranking(scores) for name, scores in self.scores.items()}
        self.plan = Reconstruction(
            graph,
            self.calibration,
            self._orders,
            ridge=self._settings.ridge,
            # Nothing reads them after the criterion, and with the factors they would be the most
            # memory that a search holds.
            takes_grams=True,
        )

    def squared_errors(self, group: str) -> NDArray[np.float64]:
        """The squared relative residuals of the plain repair for 1, 2, ... channels kept.

        They are summed over the layers that read the group. Where none of these is repaired,
        nothing tells the group's channels apart, and each is counted as worth the same.
        """
        try:
            each = list(self.plan.layer_errors(group).values())
        except ValueError:
            return np.linspace(1.0, 0.0, self.graph.group(group).channels)
        errors: NDArray[np.float64] = torch.stack(each).square().sum(0).numpy()
        return errors

    def prune(self, keep: Mapping[str, Keep]) -> Pruned:
        """The compact network that keeps these channels, with repaired weights.

        Values are the number of best-ranked channels to keep, or explicit channel indices. Groups
        not named keep all channels.
        """
        # Phases are timed here, where they are known, so that a run can show what an episode
        # spends.
        marks = [time.perf_counter()]
        kept = self.plan.kept(keep)
        marks.append(time.perf_counter())
        compact = self.graph.compact(kept)
        marks.append(time.perf_counter())
        self.plan.apply_(compact, kept)
        if self._settings.sequential:
            self._episode_repair.repair_(compact, kept)
        elif self._settings.norm_samples:
            self._reestimate_norms_(compact)
        marks.append(time.perf_counter())
        names = ("select", "compact", "repair")
        seconds = {
            name: after - before
            for name, before, after in zip(names, marks, marks[1:], strict=False)
        }
        return Pruned(model=compact, kept=kept, seconds=seconds)

    def prune_sequentially(self, keep: Mapping[str, Keep]) -> nn.Module:
        """As ``prune``, but each layer is repaired on the pruned network's activations: slower."""
        kept = self.plan.kept(keep)
        compact = self.graph.compact(kept)
        # The plain repair first: the ridge of the sequential one pulls towards the weights it
        # finds.
        self.plan.apply_(compact, kept)
        self._final_repair.repair_(compact, kept)
        return compact

    @cached_property
    def _final_repair(self) -> SequentialRepair:
        return self._sequential_repair(self.calibration.batches)

    @cached_property
    def _episode_repair(self) -> SequentialRepair:
        count = self._settings.episode_samples
        if count is None or count >= self.calibration.samples:
            return self._final_repair
        batch = self._settings.calibration_batch
        return self._sequential_repair(torch.cat(self.calibration.batches)[:count].split(batch))

    def _sequential_repair(self, batches: Sequence[Tensor]) -> SequentialRepair:
        settings = SequentialSettings(
            sampling=self._sampling,
            ridge=self._settings.ridge,
            match_residual_sums=self._settings.match_residual_sums,
        )
        return SequentialRepair(self.graph, batches, settings=settings)

    def _reestimate_norms_(self, compact: nn.Module) -> None:
        # bfloat16 is precise enough to rank policies; the network that a search keeps in the end is
        # repaired sequentially instead, in full precision.
        with self._norm_format.computing(self._norm_samples.device):
            reestimate_norms_(compact, [self._norm_samples])
