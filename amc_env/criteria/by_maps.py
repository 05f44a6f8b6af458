"""Criteria that read the feature maps of calibration samples, after norm and activation.

The score of a group is the mean over its producers of the scores of their maps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.calibration import Calibration
from amc_env.criteria.criterion import Criterion
from amc_env.criteria.maps import chip, hrank
from amc_env.information.aura import Bins, bins_for, check_bins, live_channels, spatial_entropy
from amc_env.information.class_mi import class_mi, class_mi_excess
from amc_env.information.histogram import histogram_entropy
from amc_env.information.label_grid import Orient, grid_mi, label_grids
from amc_env.information.renyi import Width, renyi_mi
from amc_env.names import check_name
from amc_env.structure import ChannelGroup

Keeps = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class AuraInformation(Criterion):
    """Mutual information of a channel's maps with the label grid, by spatial aura entropy.

    ``grid_mi`` of Musat and Andonie, "Spatial Aura Entropy", 2023, with 128 bins as in their
    experiments, or with the number that ``bins_for`` chooses (``"auto"``). Maps of a single pixel
    are refused. ``samples`` is how many calibration samples are read, from the first; all if None
    (the paper reads 100). ``shuffled`` gives the samples each other's labels, to see by how much
    the true ones matter.
    """

    name = "mi_aura"
    needs_samples = True
    needs_labels = True
    bins: Bins = 128
    orient: Orient = "columns"
    samples: int | None = None
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_bins(self.bins)
        _check_samples(self.samples)

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        known = calibration.known_labels()
        classes, labels = int(known.max()) + 1, known[: self.samples]
        if self.shuffled:
            generator = torch.Generator().manual_seed(calibration.seed)
            labels = labels[torch.randperm(len(labels), generator=generator)]

        def score(maps: Tensor) -> Tensor:
            height, width = maps.shape[-2:]
            if height * width == 1:
                raise ValueError(
                    "its maps are a single pixel, which has no neighbour; "
                    "choose class_mi, or ignore the layer"
                )
            grids = label_grids(labels, classes=classes, size=(height, width), orient=self.orient)
            return grid_mi(maps, grids.to(maps.device), bins=bins_for(maps, self.bins))

        return _mean_over_producers(group, calibration, score, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class ClassInformation(Criterion):
    """Mutual information of a pixel's symbol with the class of its sample.

    The mean over ``shuffles`` permutations of the labels is subtracted, which corrects the bias of
    the estimate; 0 permutations leave the bias in.
    """

    name = "class_mi"
    needs_samples = True
    needs_labels = True
    bins: int = 16
    order: int = 1
    shuffles: int = 0

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        labels = calibration.known_labels()
        generator = torch.Generator().manual_seed(calibration.seed)
        orders = [torch.randperm(len(labels), generator=generator) for _ in range(self.shuffles)]

        def score(maps: Tensor) -> Tensor:
            known = labels.to(maps.device)
            if not orders:
                return class_mi(maps, known, bins=self.bins, order=self.order)
            shuffled = torch.stack(orders).to(maps.device)
            return class_mi_excess(maps, known, shuffled, bins=self.bins, order=self.order)

        return _mean_over_producers(group, calibration, score)


@dataclass(frozen=True, kw_only=True)
class KernelInformation(Criterion):
    """Mutual information with the class by Rényi's matrix-based entropy (HRel).

    Its cost grows with the cube of the number of samples. Musat and Andonie, "Spatial Aura
    Entropy", 2023, replace it by ``mi_aura``. ``samples`` is how many calibration samples are read,
    from the first; all if None.
    """

    name = "hrel"
    needs_samples = True
    needs_labels = True
    alpha: float = 1.01
    width: Width = "mean"
    samples: int | None = None

    def __post_init__(self) -> None:
        _check_samples(self.samples)
        given: object = self.width
        if isinstance(given, list):
            # A configuration file has lists only.
            object.__setattr__(self, "width", tuple(given))

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        labels = calibration.known_labels()[: self.samples]

        def score(maps: Tensor) -> Tensor:
            return renyi_mi(maps, labels.to(maps.device), alpha=self.alpha, width=self.width)

        return _mean_over_producers(group, calibration, score, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class MapEntropy(Criterion):
    """Spatial entropy of a channel's maps; those of high or of low entropy stay.

    ``spatial_entropy`` of Musat and Andonie, "Pruning Convolutional Filters via Reinforcement
    Learning with Entropy Minimization", 2023, whose outlook names it as a criterion. Channels that
    do not vary have no entropy and go first. Maps of a single pixel are refused.

    Attributes:
        keeps: Which channels stay, those of ``high`` or of ``low`` entropy.
        bins: Grey levels of a map; ``"auto"`` follows from the number of pairs of pixels.
        samples: How many calibration samples are read, from the first; all if None.
    """

    name = "spatial_entropy"
    needs_samples = True
    keeps: Keeps = "high"
    bins: Bins = "auto"
    samples: int | None = None

    def __post_init__(self) -> None:
        check_name("keeps", self.keeps, get_args(Keeps))
        check_bins(self.bins)
        _check_samples(self.samples)

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        def score(maps: Tensor) -> Tensor:
            if maps[0, 0].numel() == 1:
                raise ValueError("its maps are a single pixel, which has no neighbour")
            entropies = spatial_entropy(maps, bins=bins_for(maps, self.bins))
            return _ordered(entropies, maps, self.keeps)

        return _mean_over_producers(group, calibration, score, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class MapHistogramEntropy(Criterion):
    """Entropy of the histogram of a channel's maps; those of high or of low entropy stay.

    It differs from ``MapEntropy`` in the measure alone, which ignores where values stand, and is
    the counterpart of the reward ``univariate_entropy``. Channels that do not vary go first.

    Attributes:
        keeps: Which channels stay, those of ``high`` or of ``low`` entropy.
        bins: Grey levels of a map.
        samples: How many calibration samples are read, from the first; all if None.
    """

    name = "univariate_entropy"
    needs_samples = True
    keeps: Keeps = "high"
    bins: int = 256
    samples: int | None = None

    def __post_init__(self) -> None:
        check_name("keeps", self.keeps, get_args(Keeps))
        if self.bins < 2:
            raise ValueError(f"bins is {self.bins}; give at least 2")
        _check_samples(self.samples)

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        def score(maps: Tensor) -> Tensor:
            return _ordered(histogram_entropy(maps, bins=self.bins), maps, self.keeps)

        return _mean_over_producers(group, calibration, score, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class MapRank(Criterion):
    """Mean rank of a channel's maps (HRank; Lin et al., 2020)."""

    name = "hrank"
    needs_samples = True

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        return _mean_over_producers(group, calibration, hrank)


@dataclass(frozen=True, kw_only=True)
class ChannelIndependence(Criterion):
    """Decrease of the nuclear norm when a channel's maps are removed (CHIP; Sui et al., 2021)."""

    name = "chip"
    needs_samples = True

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        return _mean_over_producers(group, calibration, chip)


@dataclass(frozen=True, kw_only=True)
class FirstOrderTaylor(Criterion):
    r"""Change of the loss when a channel is removed, to first order.

    .. math:: s_c = \frac{1}{N} \sum_n \left| \sum_{ij} x_{ncij}
                    \frac{\partial L_n}{\partial x_{ncij}} \right|

    ``x`` are the channel's maps, ``L`` the cross-entropy of each of ``N`` samples (Molchanov et
    al., 2017, equation 8, without the mean over positions, which is the same for all channels of a
    layer). The network must return class scores.
    """

    name = "taylor"
    needs_samples = True
    needs_labels = True

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        total = torch.zeros(group.channels, dtype=torch.float64)
        for producer in group.producers:
            for maps, gradients in calibration.maps_and_gradients(producer):
                changes = (maps.double() * gradients.double()).flatten(2).sum(2)
                total += changes.abs().sum(0).cpu()
        return total / (calibration.samples * len(group.producers))


def _ordered(entropies: Tensor, maps: Tensor, keeps: Keeps) -> Tensor:
    """Scores by which channels of high or of low entropy stay, and those that do not vary go."""
    scores = entropies if keeps == "high" else -entropies
    # An entropy lies between 0 and 1.
    return torch.where(live_channels(maps), scores, scores.new_full((), -2.0))


def _check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; give at least 1, or none for all")


def _mean_over_producers(
    group: ChannelGroup,
    calibration: Calibration,
    score: Callable[[Tensor], Tensor],
    *,
    samples: int | None = None,
) -> Tensor:
    """The mean of what each producer's maps are scored, on the first samples or on all."""
    each = [
        score(calibration.maps(producer, samples=samples)).double().cpu()
        for producer in group.producers
    ]
    return torch.stack(each).mean(0)
