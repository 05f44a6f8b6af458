"""What a reward may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating
from amc_env.data import Split
from amc_env.evaluation import Evaluator, accuracy_of
from amc_env.structure import Cost


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardContext:
    """One finished episode. What takes a run of the network is run when first asked for.

    Attributes:
        compact: The compact, repaired network.
        original: The network that it was cut from.
        evaluator: Runs networks on the mini split.
        original_logits: Class scores of the original on the mini split.
        calibration: The calibration samples.
        layers: Layers that make the groups, in the compact network as in the original.
        counts: How many channels each group keeps.
        cost: What the compact network costs.
        original_cost: What the original costs.
        seed: For rewards that draw at random.
    """

    compact: nn.Module
    original: nn.Module
    evaluator: Evaluator
    original_logits: Tensor
    calibration: Split
    layers: tuple[str, ...]
    counts: Mapping[str, int]
    cost: Cost
    original_cost: Cost
    seed: int

    @cached_property
    def logits(self) -> Tensor:
        """Class scores of the compact network on the mini split, float32."""
        return self.evaluator.logits(self.compact)

    @property
    def labels(self) -> Tensor:
        """Classes of the mini split."""
        return self.evaluator.split.labels

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy of the compact network on the mini split."""
        return accuracy_of(self.logits, self.labels)

    def maps(self, samples: int) -> list[Tensor]:
        """Maps of every group-making layer on the first calibration samples."""
        with evaluating(self.compact), torch.no_grad():
            maps = feature_maps(self.compact, self.layers, self.calibration.inputs[:samples])
        return list(maps.values())


Reward = Callable[[RewardContext], float]
