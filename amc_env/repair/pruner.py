"""Makes a compact, repaired network from the channels that each group keeps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc_env.batches import Batch, first_tensor, in_parts
from amc_env.calibration import Calibration, calibrate
from amc_env.criteria import Criterion, scores_by_group
from amc_env.criteria.ranking import ranking
from amc_env.data import Source
from amc_env.precision import Format
from amc_env.repair.norms import has_running_norms, rebase_norms_, reestimate_norms_
from amc_env.repair.plan import Keep, Reconstruction, kept_channels, repaired_layers
from amc_env.repair.preparation import Preparation, is_known, preparation_key
from amc_env.repair.sequential import SequentialRepair
from amc_env.repair.settings import RepairSettings
from amc_env.structure import ChannelGraph
from amc_env.tasks import Classification, Task
from amc_env.tensor_store import TensorStore


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A compact network, the channels that it keeps, and the seconds that each step took."""

    model: nn.Module
    kept: dict[str, Tensor]
    seconds: dict[str, float]


class Pruner:
    """Prune a network repeatedly: calibration, scores and factorisations are computed once here.

    Where nothing is repaired, no least squares are summed up or factored, unless the criterion or
    a search that reads the errors of the repair asks for them.

    Args:
        graph: The structure of the model.
        samples: Calibration samples.
        criterion: Ranks the channels of each group.
        repair: How weights are repaired.
        norm_format: How networks are run to estimate the statistics of their norms again.
        task: What the network is trained for; some criteria read class labels and scores.
        store: Keeps the scores and factors, and gives them back instead of computing them, where it
            has those of the same network, samples and settings.

    Attributes:
        repair: How weights are repaired.
        scores: The criterion's score of every channel, by group.
        ranking_seconds: How long the criterion took for all groups together.

    Raises:
        ValueError: ``repair`` asks for norms to be estimated again, and the model has none, or the
            criterion reads classes that the samples do not have.
    """

    def __init__(  # noqa: PLR0913 (a store is no setting)
        self,
        graph: ChannelGraph,
        samples: Source,
        criterion: Criterion,
        *,
        repair: RepairSettings | None = None,
        norm_format: Format | None = None,
        task: Task | None = None,
        store: TensorStore | None = None,
    ) -> None:
        task = task or Classification()
        labels = checked_labels(criterion, samples, task)
        self.graph = graph
        self.criterion = criterion
        self.repair = repair or RepairSettings()
        # Known now; an episode would find out only after calibration and factoring.
        if self.repair.norm_samples and not has_running_norms(graph.model):
            raise ValueError(
                f"norm_samples is {self.repair.norm_samples}, but the network has no batch norm "
                "with running statistics to estimate again; give norm_samples=0"
            )
        self._norm_format = norm_format or Format()
        self._samples = samples
        few = samples.first(self.repair.norm_samples)
        self._norm_samples = self._norm_format.arrange(few)
        key = self._key(samples, task, store) if store else None
        known = Preparation.read(store, key, graph) if store and key else None
        needs_grams = known is None and (self.repair.is_on or criterion.needs_grams)
        self.calibration: Calibration = calibrate(
            graph.model,
            samples.parts(self.repair.calibration_batch),
            layers=repaired_layers(graph) if needs_grams else (),
            labels=labels,
            task=task,
            sampling=self.repair.sampling,
        )
        self.scores, self.ranking_seconds = self._ranked(known)
        self._orders = {name: ranking(scores) for name, scores in self.scores.items()}
        # Nothing reads the sums after the criterion.
        if self.repair.is_on:
            self.plan = self._planned(self.calibration, known)
        self.calibration.grams.clear()
        if store and key and known is None:
            self._preparation().keep(store, key)

    @cached_property
    def plan(self) -> Reconstruction:
        """The factored problems; where nothing is repaired, made for the first who asks."""
        layers = repaired_layers(self.graph)
        batches = self.calibration.batches
        return self._planned(
            calibrate(self.graph.model, batches, layers=layers, sampling=self.repair.sampling)
        )

    def kept(self, keep: Mapping[str, Keep]) -> dict[str, Tensor]:
        """Indices of the channels that stay, ascending; for a number, of the best-ranked ones.

        Raises:
            ValueError: A group does not exist or cannot keep that many or those.
        """
        return kept_channels(self.graph, self._orders, keep)

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
        """The compact network that keeps these channels, repaired as in an episode.

        Values are the number of best-ranked channels to keep, or explicit channel indices. Groups
        not named keep all channels.
        """
        # Phases are timed here, where they are known, so that a run can show what an episode
        # spends.
        marks = [time.perf_counter()]
        kept = self.kept(keep)
        marks.append(time.perf_counter())
        compact = self.graph.compact(kept)
        marks.append(time.perf_counter())
        if self.repair.is_on:
            self.plan.apply_(compact, kept)
        if self.repair.is_sequential:
            self._episode_repair.repair_(compact, kept)
        # bfloat16 is precise enough to rank policies.
        self._reestimate_norms_(compact, self._norm_format)
        marks.append(time.perf_counter())
        names = ("select", "compact", "repair")
        seconds = {
            name: after - before
            for name, before, after in zip(names, marks, marks[1:], strict=False)
        }
        return Pruned(model=compact, kept=kept, seconds=seconds)

    def hold_(self) -> None:
        """Compute now what the repairs of all episodes share, so that copies share it too."""
        if self.repair.is_sequential:
            self._episode_repair.hold_()

    def realise(self, keep: Mapping[str, Keep]) -> nn.Module:
        """The compact network that keeps these channels, as a search keeps it in the end.

        It is repaired layer by layer on all samples; where nothing is repaired, its channels are
        cut, and its norms estimated again if those of episodes are.
        """
        if self.repair.is_on:
            return self.prune_sequentially(keep)
        compact = self.graph.compact(self.kept(keep))
        self._reestimate_norms_(compact, Format())
        return compact

    def prune_sequentially(self, keep: Mapping[str, Keep]) -> nn.Module:
        """As ``prune``, but each layer is repaired on the pruned network's activations: slower."""
        kept = self.kept(keep)
        compact = self.graph.compact(kept)
        # The plain repair first: the sequential one is pulled towards the weights that it finds.
        self.plan.apply_(compact, kept)
        self._final_repair.repair_(compact, kept)
        # It is the network that may be trained further.
        rebase_norms_(compact, self.calibration.batches)
        return compact

    @cached_property
    def _final_repair(self) -> SequentialRepair:
        return self._sequential_repair(self.calibration.batches)

    @cached_property
    def _episode_repair(self) -> SequentialRepair:
        count = self.repair.episode_samples
        if count is None or count >= self.calibration.samples:
            return self._final_repair
        batch = self.repair.calibration_batch
        # Of a stream too: they are run in every episode.
        few = in_parts(self._samples.first(count), batch)
        return self._sequential_repair(few, only_readers=True)

    def _sequential_repair(
        self, batches: Sequence[Batch], *, only_readers: bool = False
    ) -> SequentialRepair:
        settings = replace(self.repair.by_layer, only_readers=only_readers)
        return SequentialRepair(self.graph, batches, settings=settings)

    def _planned(
        self, calibration: Calibration, known: Preparation | None = None
    ) -> Reconstruction:
        # With the factors, the sums would be the most memory that a search holds.
        return Reconstruction(
            self.graph,
            calibration,
            self._orders,
            ridge=self.repair.ridge,
            takes_grams=True,
            known=known.problems if known else None,
        )

    def _ranked(self, known: Preparation | None) -> tuple[dict[str, Tensor], float]:
        """The scores of every group, and the seconds that they took."""
        if known:
            return known.scores, known.ranking_seconds
        started = time.perf_counter()
        scores = scores_by_group(self.criterion, self.graph.groups, self.calibration)
        return scores, time.perf_counter() - started

    def _key(self, samples: Source, task: Task, store: TensorStore) -> str | None:
        """All that scores and factors depend on; None where that is not known."""
        unknown = next((x for x in (self.criterion, task) if not is_known(x)), None)
        if unknown is not None:
            store.tell(
                f"scores and factors are not kept, because {type(unknown).__name__} is no "
                "dataclass of plain values, and what they depend on is not known"
            )
            return None
        read = {
            "is_on": self.repair.is_on,
            "ridge": self.repair.ridge,
            "batch": self.repair.calibration_batch,
            "sampling": self.repair.sampling,
        }
        return preparation_key(self.graph, samples, (self.criterion, task), read)

    def _preparation(self) -> Preparation:
        return Preparation(
            scores=self.scores,
            ranking_seconds=self.ranking_seconds,
            problems=self.plan.problems if self.repair.is_on else {},
        )

    def _reestimate_norms_(self, compact: nn.Module, form: Format) -> None:
        """Estimate the statistics of norms again, if the settings have samples for it."""
        if not self.repair.norm_samples:
            return
        samples = form.arrange(self._norm_samples)
        with form.computing(first_tensor(samples).device):
            reestimate_norms_(compact, [samples])


def checked_labels(criterion: Criterion, samples: Source, task: Task) -> Tensor | None:
    """The classes of calibration samples; None where they have none and the criterion needs none.

    Raises:
        ValueError: The criterion needs them.
    """
    labels = samples.labels if task.has_classes else None
    if criterion.needs_labels and not isinstance(labels, Tensor):
        why = (
            "the calibration samples have no labels"
            if task.has_classes
            else f"the task {task.name} has no class for each sample"
        )
        raise ValueError(
            f"criterion {criterion.name!r} reads the classes of the calibration samples, but {why};"
            " choose a criterion without labels, such as l2, reconstruction or spatial_entropy"
        )
    return labels if isinstance(labels, Tensor) else None
