"""Criteria that read weights alone and need no samples."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from amc_env.calibration import Calibration
from amc_env.criteria.criterion import Criterion, produced_by, read_by
from amc_env.criteria.weights import Axis, fpgm, fpgm_distance
from amc_env.information.filters import Metric, importance
from amc_env.structure import ChannelGroup


@dataclass(frozen=True, kw_only=True)
class Magnitude(Criterion):
    r"""The norm of all weights that produce, or that read, a channel.

    .. math:: s_c = \left(\sum_{w \in W_c} |w|^p\right)^{1/p}

    ``W_c`` are the weights of channel ``c`` in all producers of the group together
    (``axis="out"``), or in all its consumers (``"in"``, as in the code of the AMC paper). Musat and
    Andonie, "Entropy Minimization", 2023, section 4, rank by ``p`` 2.
    """

    p: int = 2
    axis: Axis = "out"
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"l{self.p}")
        if self.p not in (1, 2):
            raise ValueError(f"p is {self.p}; give 1 or 2")
        if self.axis not in get_args(Axis):
            raise ValueError(f"axis {self.axis!r} does not exist; choose out or in")

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        members, weights = (
            (group.producers, produced_by) if self.axis == "out" else (group.consumers, read_by)
        )
        powers = torch.zeros(group.channels, dtype=torch.float64)
        for member in members:
            each = weights(calibration.model, member).double().abs().pow(self.p).flatten(1).sum(1)
            powers += each.cpu()[member.positions].sum(1)
        return powers.pow(1 / self.p)


@dataclass(frozen=True, kw_only=True)
class Capacity(Criterion):
    """Information capacity and independence of the filters that produce a channel.

    ``importance`` of the filters of each producer (Tang et al., "Information Capacity and
    Independence", 2023), averaged over the positions of a channel and over the producers. ``sigma``
    weighs capacity against independence, ``kernels`` and ``filters`` are the numbers of nearest
    neighbours that count (all if None), and ``scaled`` says whether both terms are min-max scaled
    within the layer first.
    """

    name = "capacity"
    sigma: float = 0.8
    kernels: int | None = None
    filters: int | None = None
    metric: Metric = "euclidean"
    scaled: bool = True

    def __post_init__(self) -> None:
        # The functions that use the settings check them; a single filter is enough for that.
        self._importance(torch.ones(1, 1, 1, 1))

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        return _mean_over_producers(group, calibration.model, self._importance)

    def _importance(self, weight: Tensor) -> Tensor:
        return importance(
            weight,
            sigma=self.sigma,
            nearest=(self.kernels, self.filters),
            metric=self.metric,
            scaled=self.scaled,
        )


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Criterion):
    """Distance of a channel's filter from the other filters of its layer (FPGM).

    It is the sum of the distances to all other filters or, with ``exact``, the distance to their
    geometric median, averaged over the positions of a channel and over the producers.
    """

    name = "fpgm"
    exact: bool = False

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        return _mean_over_producers(group, calibration.model, fpgm_distance if self.exact else fpgm)


@dataclass(frozen=True, kw_only=True)
class NormScale(Criterion):
    """Absolute scale of a channel in the norms behind it, averaged over them.

    Liu et al., "Network Slimming", 2017.
    """

    name = "bn_scale"

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        found = []
        for member in group.followers:
            scale = getattr(_module(calibration.model, member.module), "weight", None)
            if isinstance(scale, Tensor) and "norm" in member.kind:
                sizes = scale.detach().abs().cpu().double()
                found.append(sizes[member.positions].mean(1))
        if not found:
            raise ValueError("no norm with a scale follows it; choose l2")
        return torch.stack(found).mean(0)


@dataclass(frozen=True, kw_only=True)
class Random(Criterion):
    """Uniform random scores that depend on the calibration's seed and the group's name alone."""

    name = "random"

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        seed = zlib.crc32(f"{calibration.seed} {group.name}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(group.channels, generator=generator, dtype=torch.float64)


def _mean_over_producers(
    group: ChannelGroup, model: nn.Module, score: Callable[[Tensor], Tensor]
) -> Tensor:
    each = [
        score(produced_by(model, member)).double().cpu()[member.positions].mean(1)
        for member in group.producers
    ]
    return torch.stack(each).mean(0)


def _module(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)
