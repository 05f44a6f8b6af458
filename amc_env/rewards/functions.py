"""The rewards: functions of a finished episode, and records that add settings to one.

The rewards from entropy are those of Musat and Andonie, "Pruning Convolutional Filters via
Reinforcement Learning with Entropy Minimization", 2023.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log
from typing import get_args

import torch
from torch import Tensor

from amc_env.information.aura import (
    Base,
    Bins,
    Dead,
    Pool,
    Span,
    check_bins,
    entropy_reward,
    live_channels,
)
from amc_env.information.histogram import layer_histogram_entropy
from amc_env.names import check_name
from amc_env.rewards.context import Reward, RewardContext
from amc_env.rewards.layers import LayerChoice, NetworkLayers, checked_choice
from amc_env.tasks import Task


def accuracy(context: RewardContext) -> float:
    """The task's metric on the validation split.

    The top-1 accuracy, from 0 to 1, where classes are the task (Musat and Andonie, 2023, section
    3).
    """
    return context.accuracy


def neg_error_log_flops(context: RewardContext) -> float:
    r"""Pay for accuracy and for a small network, for searches without a budget.

    .. math:: R = -e \, \log M

    ``e`` is the error on the validation split, 1 less the task's metric, and ``M`` are the
    multiply-accumulates for one sample. He et al., "AMC: AutoML for Model Compression and
    Acceleration on Mobile Devices", 2018, section 3.4.
    """
    return -(1.0 - context.accuracy) * log(context.cost.flops)


def loss(context: RewardContext) -> float:
    """Negative loss of the task on the validation split: the mean cross-entropy, for classes.

    Unlike accuracy it has no steps.
    """
    return -float(context.task.loss(context.outputs, context.labels))


def kl_to_original(context: RewardContext) -> float:
    r"""How close the outputs stay to those of the original network; 0 is closest.

    .. math:: R = -\frac{1}{N} \sum_n \sum_k p_{nk} \log \frac{p_{nk}}{q_{nk}}

    ``p`` are the class probabilities of the original network, ``q`` those of the compact one.
    Other tasks have other distances. No label is read.
    """
    return -float(context.task.distance(context.outputs, context.original_outputs))


@dataclass(frozen=True, kw_only=True)
class SpatialEntropy:
    r"""1 - the mean spatial entropy of the feature maps of the layers.

    .. math:: R = 1 - \frac{1}{L} \sum_{i=1}^{L} H_{AME}(\mathbf{X}_i)

    ``X_i`` are the maps of layer ``i`` of ``L``. Musat and Andonie, "Entropy Minimization", 2023,
    section 4. Layers without an entropy (maps of a single pixel, no channel that varies) are left
    out of the mean; if no layer has one, the reward refuses the network.

    Attributes:
        bins: Grey levels of a map. The paper uses 256; ``"auto"`` follows from the number of pairs
            of pixels of each layer.
        samples: Number of calibration samples whose maps are read.
        layers: Layers whose maps are read: ``all`` convolutions, as in the paper, those that are
            ``pruned``, the ``outputs`` that nothing prunes, the ``last`` one, or names; see
            ``NetworkLayers``.
        before_activation: Read the layers' own outputs, before norm and activation, rather than
            what the next layers read.
        pool: Count the pairs of pixels of all samples together (``batch``), or average over the
            entropies of single maps (``sample``).
        dead: Leave out channels that have one value on all samples (``constant``), or only those
            whose value is 0, as the paper does (``zero``).
        scope: Whose least and greatest value the grey levels lie between: those of a ``channel`` on
            all samples, of a single ``map``, or of the whole ``layer``.
        h0: The entropy of a single pixel, ``H(0)``: that of the pixels of the pairs (``pair``), or
            that of all pixels, with the entropy held to 0 to 1 (``global``) or not
            (``global-raw``).
        is_maximised: Pay the mean entropy itself, the paper's sanity check.
    """

    bins: Bins = 256
    samples: int = 100
    layers: LayerChoice = "all"
    before_activation: bool = False
    pool: Pool = "batch"
    dead: Dead = "constant"
    scope: Span = "channel"
    h0: Base = "pair"
    is_maximised: bool = False

    def __post_init__(self) -> None:
        check_bins(self.bins)
        _check_samples(self.samples)
        check_name("pool", self.pool, get_args(Pool))
        check_name("scope", self.scope, get_args(Span))
        check_name("h0", self.h0, get_args(Base))
        check_name("dead", self.dead, get_args(Dead))
        object.__setattr__(self, "layers", checked_choice(self.layers))

    @property
    def name(self) -> str:
        """What tables and files call the reward."""
        return "spatial_entropy_max" if self.is_maximised else "spatial_entropy"

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode.

        Raises:
            ValueError: No layer has an entropy.
        """
        maps = _maps(self, context)
        if not any(x[0, 0].numel() > 1 and live_channels(x, dead=self.dead).any() for x in maps):
            raise _no_entropy(self, context)
        reward = entropy_reward(
            maps, bins=self.bins, scope=self.scope, pool=self.pool, h0=self.h0, dead=self.dead
        )
        return 1.0 - reward if self.is_maximised else reward


@dataclass(frozen=True, kw_only=True)
class UnivariateEntropy:
    """1 - the mean histogram entropy of the layers' maps, which ignores where values stand.

    It differs from ``SpatialEntropy`` in the measure alone, to show what the measure contributes,
    and has the same attributes, where they apply.
    """

    name = "univariate_entropy"
    bins: int = 256
    samples: int = 100
    layers: LayerChoice = "all"
    before_activation: bool = False
    dead: Dead = "constant"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins is {self.bins}; give at least 2")
        _check_samples(self.samples)
        check_name("dead", self.dead, get_args(Dead))
        object.__setattr__(self, "layers", checked_choice(self.layers))

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode.

        Raises:
            ValueError: No layer has an entropy.
        """
        maps = _maps(self, context)
        each = [layer_histogram_entropy(x, bins=self.bins, dead=self.dead) for x in maps]
        known = torch.tensor(each, dtype=torch.float64)
        if known.isnan().all():
            raise _no_entropy(self, context)
        return 1.0 - float(known.nanmean())


@dataclass(frozen=True, kw_only=True)
class RandomReward:
    """A uniform random number from 0 to 1.

    The sanity check of Musat and Andonie, "Entropy Minimization", 2023: an agent has nothing to
    learn from it.

    Attributes:
        fresh: Draw another number for every episode. Otherwise the number depends on the seed and
            the numbers of channels alone, so that a policy is always paid the same.
    """

    name = "random"
    fresh: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether a policy is always paid the same."""
        return not self.fresh

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode."""
        if self.fresh:
            return context.draw
        key = f"{context.seed} {sorted(context.counts.items())}".encode()
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        return float(torch.rand((), generator=generator, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """A sum of rewards, each times its weight.

    Attributes:
        parts: Rewards by name.
        weights: Their weights by the same names, finite numbers.
    """

    name = "weighted"
    parts: Mapping[str, Reward]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) != set(self.weights):
            raise ValueError(
                f"the weighted reward has the parts {', '.join(self.parts) or 'none'} and weights "
                f"for {', '.join(self.weights) or 'none'}; give at least one part, and each one "
                "weight"
            )
        for name, weight in self.weights.items():
            _check_weight(name, weight)

    @property
    def is_repeatable(self) -> bool:
        """Whether every part always pays a policy the same."""
        return all(is_repeatable(part) for part in self.parts.values())

    def values(self, context: RewardContext) -> dict[str, float]:
        """Each reward by name, before it is weighted."""
        return {name: part(context) for name, part in self.parts.items()}

    def total(self, values: Mapping[str, float]) -> float:
        """The weighted sum of the values of the rewards."""
        return sum(self.weights[name] * value for name, value in values.items())

    def __call__(self, context: RewardContext) -> float:
        """The reward of an episode."""
        return self.total(self.values(context))


def is_repeatable(reward: Reward) -> bool:
    """Whether a reward always pays a policy the same, so that its outcome may be remembered.

    A reward that does not says so by an attribute ``is_repeatable`` that is False.
    """
    return bool(getattr(reward, "is_repeatable", True))


def check_layers(reward: Reward, layers: NetworkLayers) -> None:
    """Refuse a reward that reads layers which a network does not have.

    Raises:
        ValueError: It does; the message names the nearest layer, or says which set is empty.
    """
    if isinstance(reward, WeightedSum):
        for part in reward.parts.values():
            check_layers(part, layers)
    elif isinstance(reward, SpatialEntropy | UnivariateEntropy):
        layers.chosen(reward.layers)


def check_task(reward: Reward, task: Task) -> None:
    """Refuse a reward that has no meaning for a task.

    Raises:
        ValueError: It has none.
    """
    if isinstance(reward, WeightedSum):
        for part in reward.parts.values():
            check_task(part, task)
    elif reward is neg_error_log_flops and not task.metric.is_share:
        raise ValueError(
            f"the reward neg_error_log_flops needs a metric from 0 to 1, and the task {task.name} "
            f"has {task.metric.name}; choose another reward, such as loss"
        )


def _maps(reward: SpatialEntropy | UnivariateEntropy, context: RewardContext) -> list[Tensor]:
    return context.maps(
        reward.samples, layers=reward.layers, before_activation=reward.before_activation
    )


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples is {samples}; give at least 1")


def _check_weight(name: str, weight: object) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
        raise ValueError(f"the weight of the reward {name!r} is {weight!r}; give a finite number")


def _no_entropy(reward: SpatialEntropy | UnivariateEntropy, context: RewardContext) -> ValueError:
    layers = ", ".join(context.layers.chosen(reward.layers))
    return ValueError(
        f"the reward {reward.name} at bins {reward.bins} finds no entropy in any of the layers "
        f"{layers}: each of their maps is a single pixel, or has one value on all calibration "
        "samples that are read; choose another reward, such as accuracy, or give larger or more "
        "samples"
    )
