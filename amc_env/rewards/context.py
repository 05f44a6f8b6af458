"""The record of a finished episode, from which a reward is computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from amc_env.batches import Batch
from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating
from amc_env.data import Source
from amc_env.devices import with_float64
from amc_env.evaluation import Evaluator
from amc_env.rewards.layers import LayerChoice, NetworkLayers
from amc_env.structure import Cost
from amc_env.tasks import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardContext:
    """One finished episode. The network is only run for what a reward asks for, and once.

    Attributes:
        compact: The compact, repaired network.
        original: The network that it was cut from.
        evaluator: Runs networks on the validation split, or on the selection split where the best
            policies of a search are compared.
        original_outputs: What the task reads of the original network's outputs on that split: class
            scores (samples, classes), where classes are the task.
        calibration: Samples whose feature maps are read: the calibration split, or the selection
            split where policies are compared on it.
        layers: Names of the layers whose maps can be read, the same in both networks.
        counts: Number of channels that each group keeps.
        cost: Cost of the compact network.
        original_cost: Cost of the original network.
        seed: Seed of rewards that draw random numbers.
        draw: A uniform random number from 0 to 1, another one for every episode.
        known: Outputs of the compact network on the validation split where they are known already;
            the network is run if None.
    """

    compact: nn.Module
    original: nn.Module
    evaluator: Evaluator
    original_outputs: Batch
    calibration: Source
    layers: NetworkLayers
    counts: Mapping[str, int]
    cost: Cost
    original_cost: Cost
    seed: int
    draw: float
    known: Batch | None = None

    @cached_property
    def outputs(self) -> Any:
        """What the task reads of the compact network's outputs on the evaluator's split, float32.

        Class scores (samples, classes), where classes are the task.
        """
        return self.evaluator.outputs(self.compact) if self.known is None else self.known

    @property
    def task(self) -> Task:
        """What the networks are trained for."""
        return self.evaluator.task

    @property
    def labels(self) -> Any:
        """The labels of the evaluator's split: classes (samples,), where these are the task."""
        return self.evaluator.split.labels

    @cached_property
    def accuracy(self) -> float:
        """The task's metric of the compact network on the evaluator's split.

        Where classes are the task, the top-1 accuracy, from 0 to 1.
        """
        return self.task.evaluate(self.outputs, self.labels)

    def maps(
        self, samples: int, *, layers: LayerChoice = "all", before_activation: bool = False
    ) -> list[Tensor]:
        """Feature maps (samples, channels, H, W) of layers of the compact network.

        Args:
            samples: How many calibration samples are read, from the first.
            layers: ``all``, ``pruned``, ``outputs``, ``last`` or names; see ``NetworkLayers``.
            before_activation: Read the layers' own outputs, before norm and activation.

        Raises:
            ValueError: There is no such layer, or a map is not finite.
        """
        with evaluating(self.compact):
            maps = feature_maps(
                self.compact,
                self.layers.chosen(layers),
                self.calibration.first(samples),
                before_activation=before_activation,
            )
        return [with_float64(x) for x in maps.values()]


Reward = Callable[[RewardContext], float]
