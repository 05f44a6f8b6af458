"""What a compact network is paid: its reward, with its accuracy and cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from amc_env.batches import Batch
from amc_env.env.bench import Benches
from amc_env.env.trial import Outcome
from amc_env.names import name_of
from amc_env.rewards import Reward, RewardContext, WeightedSum
from amc_env.rewards.bounds import has_upper_bound, upper_bound
from amc_env.rewards.functions import check_layers, check_task, is_repeatable
from amc_env.tasks import Task

Split = Literal["validation", "selection"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Payment:
    """Pays compact networks by one reward.

    Attributes:
        reward: The reward.
        task: What the network is trained for.
        benches: Prepare networks for the reward.

    Raises:
        ValueError: The reward does not fit the task, or reads layers that do not exist.
    """

    reward: Reward
    task: Task
    benches: Benches

    def __post_init__(self) -> None:
        check_task(self.reward, self.task)
        check_layers(self.reward, self.benches.layers)

    @property
    def is_repeatable(self) -> bool:
        """Whether the same network is always paid the same."""
        return is_repeatable(self.reward)

    def context(
        self,
        compact: nn.Module,
        counts: Mapping[str, int],
        *,
        draw: float,
        on: Split = "validation",
        outputs: Batch | None = None,
    ) -> RewardContext:
        """What the reward reads of a network.

        Args:
            compact: The network.
            counts: How many channels each group keeps in it.
            draw: A uniform random number from 0 to 1.
            on: The split.
            outputs: Its outputs of the first samples; the reward is computed on these samples only.
        """
        bench = self.benches.validation if on == "validation" else self.benches.selection
        return bench.context(compact, counts, draw=draw, outputs=outputs)

    @torch.no_grad()
    def outcome(self, context: RewardContext) -> Outcome:
        """The outcome of the network that a context is of.

        Raises:
            ValueError: The reward is no finite number.
        """
        parts: Mapping[str, float] = {}
        if isinstance(self.reward, WeightedSum):
            parts = {name: float(part) for name, part in self.reward.values(context).items()}
            reward = float(self.reward.total(parts))
        else:
            reward = float(self.reward(context))
        if not np.isfinite(reward):
            raise ValueError(f"the reward is {reward}; a reward must give a finite number")
        return Outcome(
            reward=reward,
            parts=parts,
            accuracy=context.accuracy,
            flops=context.cost.flops,
            params=context.cost.params,
            samples=len(context.evaluator.split),
        )

    def of_first(
        self, counts: Mapping[str, int], draw: float, compact: nn.Module, outputs: Batch
    ) -> Outcome:
        """The outcome on the samples that there are outputs of."""
        return self.outcome(self.context(compact, counts, draw=draw, outputs=outputs))

    def bound(
        self, counts: Mapping[str, int], draw: float, compact: nn.Module, outputs: Batch
    ) -> float:
        """The greatest reward that the samples without outputs still leave possible."""
        return upper_bound(self.reward, self.context(compact, counts, draw=draw), outputs)

    def check_raced(self) -> None:
        """Refuse a reward of which the first samples say nothing about the others."""
        if not has_upper_bound(self.reward, self.task):
            raise ValueError(
                f"the reward {name_of(self.reward)!r} cannot be raced, because samples that are "
                "not evaluated yet could change it in either direction; do not race, or choose "
                "accuracy, loss, neg_error_log_flops or kl_to_original"
            )
