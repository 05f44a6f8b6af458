"""The rewards: plain functions of a finished episode, or records with settings."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F

from amc_env.information.aura import Bins, check_bins, entropy_reward
from amc_env.information.histogram import layer_histogram_entropy
from amc_env.rewards.context import Reward, RewardContext


def accuracy(context: RewardContext) -> float:
    """Top-1 accuracy on the mini split, from 0 to 1 (document 002, section 3)."""
    return context.accuracy


def neg_error_log_flops(context: RewardContext) -> float:
    r"""Pay for accuracy and for a smaller network, where no budget does (AMC, section 3.4).

    .. math:: R = -e \, \log M

    ``e`` is the error on the mini split; ``M`` the multiply-accumulates for one sample.
    """
    return -(1.0 - context.accuracy) * log(context.cost.flops)


def loss(context: RewardContext) -> float:
    """Negative mean cross-entropy on the mini split; unlike accuracy it has no steps."""
    return -float(F.cross_entropy(context.logits, context.labels))


def kl_to_original(context: RewardContext) -> float:
    r"""How near the class probabilities stay to the original's; 0 is nearest.

    .. math:: R = -\frac{1}{N} \sum_n \sum_k p_{nk} \log \frac{p_{nk}}{q_{nk}}

    ``p`` are the original's probabilities, ``q`` the compact network's. No label is read.
    """
    target = context.original_logits.log_softmax(1)
    own = context.logits.log_softmax(1)
    return -float(F.kl_div(own, target, reduction="batchmean", log_target=True))


@dataclass(frozen=True, kw_only=True)
class SpatialEntropy:
    r"""1 - the mean spatial entropy of the layers' maps (document 002, section 4).

    .. math:: R = 1 - \frac{1}{L} \sum_{i=1}^{L} H_{AME}(\mathbf{X}_i)

    Attributes:
        bins: Grey levels of a map; document 002 uses 256. ``"auto"`` goes by each layer's pairs.
        samples: Calibration samples whose maps are read.
        is_maximised: Pay for the mean entropy itself: the document's opposite, a sanity check.
    """

    bins: Bins = 256
    samples: int = 100
    is_maximised: bool = False

    def __post_init__(self) -> None:
        check_bins(self.bins)
        _check_samples(self.samples)

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode."""
        reward = entropy_reward(context.maps(self.samples), bins=self.bins)
        return 1.0 - reward if self.is_maximised else reward


@dataclass(frozen=True, kw_only=True)
class UnivariateEntropy:
    """As ``SpatialEntropy`` by plain histogram entropy, which sees no neighbours: the ablation."""

    bins: int = 256
    samples: int = 100

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins is {self.bins}; give at least 2")
        _check_samples(self.samples)

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode."""
        each = [layer_histogram_entropy(x, bins=self.bins) for x in context.maps(self.samples)]
        mean = float(torch.tensor(each, dtype=torch.float64).nanmean())
        return 1.0 - mean if mean == mean else 0.0


def random(context: RewardContext) -> float:
    """A uniform random number that hangs on the seed and the numbers of channels alone.

    Document 002's sanity check: an agent that learns from it has nothing to learn.
    """
    key = f"{context.seed} {sorted(context.counts.items())}".encode()
    generator = torch.Generator().manual_seed(zlib.crc32(key))
    return float(torch.rand((), generator=generator, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """A sum of rewards, each times its weight.

    Attributes:
        parts: Rewards by name.
        weights: Their weights by the same names.
    """

    parts: Mapping[str, Reward]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) != set(self.weights):
            raise ValueError(
                f"rewards {', '.join(self.parts)} have weights for {', '.join(self.weights)}; "
                "give each one weight"
            )

    def values(self, context: RewardContext) -> dict[str, float]:
        """Each reward by name, before its weight."""
        return {name: part(context) for name, part in self.parts.items()}

    def total(self, values: Mapping[str, float]) -> float:
        """The weighted sum of the rewards' values."""
        return sum(self.weights[name] * value for name, value in values.items())

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode."""
        return self.total(self.values(context))


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples is {samples}; give at least 1")
