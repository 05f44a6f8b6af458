"""What rewards read of a compact network, on one split."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from torch import nn

from amc_env.batches import Batch, count, first
from amc_env.data import PruningData, Source
from amc_env.env.settings import EnvSettings
from amc_env.evaluation import Evaluator
from amc_env.folding import folds_of
from amc_env.memory import Memory
from amc_env.precision import Choice
from amc_env.rewards import NetworkLayers, RewardContext
from amc_env.structure import ChannelGraph
from amc_env.tasks import Task


class Bench:
    """Prepares networks for rewards on one split, on which the original network is run once.

    Args:
        graph: The structure of the original network.
        evaluator: Runs networks on the split.
        layers: The layers whose feature maps rewards can read.
        mapped: Samples whose feature maps rewards read.
        seed: Seed of rewards that draw random numbers.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        evaluator: Evaluator,
        *,
        layers: NetworkLayers,
        mapped: Source,
        seed: int,
    ) -> None:
        self.evaluator = evaluator
        self._graph = graph
        self._layers = layers
        self._mapped = mapped
        self._seed = seed
        self._original_outputs = evaluator.outputs(graph.model)

    def context(
        self,
        compact: nn.Module,
        counts: Mapping[str, int],
        *,
        draw: float,
        outputs: Batch | None = None,
    ) -> RewardContext:
        """What rewards read of a network that keeps these numbers of channels.

        Args:
            compact: The network.
            counts: How many channels each group keeps.
            draw: A uniform random number from 0 to 1.
            outputs: Its outputs of the first samples, if they are known. Rewards are then computed
                on these samples only.
        """
        samples = len(self.evaluator.split) if outputs is None else count(outputs)
        is_whole = samples == len(self.evaluator.split)
        return RewardContext(
            compact=compact,
            original=self._graph.model,
            evaluator=self.evaluator if is_whole else self.evaluator.part(0, samples),
            original_outputs=first(self._original_outputs, samples),
            calibration=self._mapped,
            layers=self._layers,
            counts=counts,
            cost=self._graph.cost(counts),
            original_cost=self._graph.cost(),
            seed=self._seed,
            draw=draw,
            known=outputs,
        )


class Benches:
    """The benches of the validation and of the selection split, in one format of evaluations.

    Args:
        graph: The structure of the original network.
        data: The splits; those whose feature maps rewards read are calibration and selection.
        settings: Batch, precision and seed.
        task: What the network is trained for.
        memory: Is asked for the format before it is measured.

    Attributes:
        layers: The layers whose feature maps rewards can read.
        choice: The format in which networks are evaluated.
        validation: The bench on which episodes are paid.

    Raises:
        ValueError: The network does not run on the samples, or has no score for a label.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        data: PruningData,
        *,
        settings: EnvSettings,
        task: Task,
        memory: Memory,
    ) -> None:
        self.layers = NetworkLayers.of(graph)
        self._graph = graph
        self._data = data
        self._settings = settings
        self._task = task
        # A run over a whole split takes long. The sample with the greatest label is enough to find
        # out whether the network runs and has a score for every class.
        for split in (data.validation, data.judging):
            one = split.with_greatest_label()
            Evaluator(one, precision="float32", task=task).outputs(graph.model)
        self._folds = folds_of(graph.model, data.calibration.first(2))
        # A clock may decide, so it is remembered.
        self.choice = Choice.of(memory("format of evaluations", self._fastest))
        self.validation = self._bench(data.validation, mapped=data.calibration)

    @cached_property
    def selection(self) -> Bench:
        """The bench on which finalists are judged; that of validation if there is no such split."""
        # Made only for those who ask, because it takes a run of the original network.
        split = self._data.selection
        return self.validation if split is None else self._bench(split, mapped=split)

    def _fastest(self) -> dict[str, Any]:
        evaluator = Evaluator(
            self._data.validation,
            batch=self._settings.evaluation_batch,
            precision=self._settings.precision,
            task=self._task,
        )
        return asdict(evaluator.choose(self._graph.model))

    def _bench(self, split: Source, *, mapped: Source) -> Bench:
        evaluator = Evaluator(
            split.resident(),
            batch=self._settings.evaluation_batch,
            precision=self.choice,
            folds=self._folds,
            task=self._task,
        )
        seed = self._settings.seed
        return Bench(self._graph, evaluator, layers=self.layers, mapped=mapped, seed=seed)
