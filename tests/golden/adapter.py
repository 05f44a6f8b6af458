"""The package's functions under the names and arguments of the golden vectors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from direct_repair import reconstruct
from direct_repair import unfold as unfolded
from torch import Tensor

from amc_env.criteria import maps, weights
from amc_env.criteria.ranking import ranking
from amc_env.information import aura, filters, renyi
from amc_env.information import class_mi as classes
from amc_env.information import label_grid as grids
from amc_env.information import sde as disorder
from amc_env.structure.sparsity import kept_count


def quantize(x: Tensor, bins: int, scope: Any = "channel") -> Tensor:
    return aura.quantize(x, bins=bins, scope=scope)


def joint_histogram(q: Tensor, offset: Sequence[int], bins: int) -> Tensor:
    return aura.pair_counts(q, offset=(offset[0], offset[1]), bins=bins)


def ame_of_symbols(q: Tensor, bins: int, h0: Any = "pair") -> float:
    return aura.ame_of_symbols(q, bins=bins, h0=h0)


def spatial_entropy_ame(x: Tensor, bins: int = 256, **options: Any) -> Tensor:
    return aura.spatial_entropy(x, bins=bins, **options)


def live_channels(x: Tensor, dead: Any = "constant") -> Tensor:
    return aura.live_channels(x, dead=dead)


def layer_entropy(x: Tensor, bins: int = 256, **options: Any) -> float:
    return aura.layer_entropy(x, bins=bins, **options)


def entropy_reward(layers: list[Tensor], bins: int = 256, **options: Any) -> float:
    return aura.entropy_reward(layers, bins=bins, **options)


def sde(image: Tensor, bins: int, **options: Any) -> float:
    return disorder.sde(image, bins=bins, **options)


def label_grid(
    label: int, n_classes: int, height: int, width: int, orient: Any = "columns"
) -> Tensor:
    one = torch.tensor([label])
    return grids.label_grids(one, classes=n_classes, size=(height, width), orient=orient)[0]


def joint_ame(qx: Tensor, qy: Tensor, bins_x: int, bins_y: int, h0: Any = "pair") -> float:
    return grids.joint_ame(qx, qy, bins=bins_x, other_bins=bins_y, h0=h0)


def mi_ame(
    x: Tensor,
    labels: Tensor,
    n_classes: int,
    bins: int = 128,
    orient: Any = "columns",
    **options: Any,
) -> Tensor:
    height, width = x.shape[2:]
    images = grids.label_grids(labels, classes=n_classes, size=(height, width), orient=orient)
    return grids.grid_mi(x, images, bins=bins, **options)


def class_mi(x: Tensor, labels: Tensor, bins: int = 16, **options: Any) -> Tensor:
    return classes.class_mi(x, labels, bins=bins, **options)


def class_mi_excess(
    x: Tensor, labels: Tensor, perms: Tensor, bins: int = 16, **options: Any
) -> Tensor:
    return classes.class_mi_excess(x, labels, perms, bins=bins, **options)


def _width(rule: Any) -> Any:
    return tuple(rule) if isinstance(rule, list) else rule


def gram(features: Tensor, rule: Any = "mean", form: Any = "2s2") -> Tensor:
    return renyi.gram(features, width=_width(rule), form=form)


def renyi_from_gram(k: Tensor, alpha: float = 1.01) -> Tensor:
    return renyi.entropy_of_gram(k, alpha=alpha)


def renyi_entropy(
    features: Tensor, alpha: float = 1.01, rule: Any = "mean", form: Any = "2s2"
) -> Tensor:
    return renyi.renyi_entropy(features, alpha=alpha, width=_width(rule), form=form)


def renyi_channel_entropy(
    x: Tensor, alpha: float = 1.01, rule: Any = "mean", form: Any = "2s2"
) -> Tensor:
    return renyi.renyi_channel_entropy(x, alpha=alpha, width=_width(rule), form=form)


def hrel_mi(
    x: Tensor, labels: Tensor, alpha: float = 1.01, rule: Any = "mean", form: Any = "2s2"
) -> Tensor:
    return renyi.renyi_mi(x, labels, alpha=alpha, width=_width(rule), form=form)


def filter_entropy(w: Tensor, m: int | None = None, normalize: bool = False) -> Tensor:
    return filters.filter_entropy(w, nearest=m, normalize=normalize)


def capacity(w: Tensor, m: int | None = None, normalize: bool = False) -> Tensor:
    return filters.capacity(w, nearest=m, normalize=normalize)


def independence(w: Tensor, m: int | None = None, metric: Any = "euclidean") -> Tensor:
    return filters.independence(w, nearest=m, metric=metric)


def importance(
    w: Tensor,
    sigma: float = 0.8,
    m_kernels: int | None = None,
    m_filters: int | None = None,
    metric: Any = "euclidean",
    normalize: str | None = "minmax",
) -> Tensor:
    return filters.importance(
        w,
        sigma=sigma,
        nearest=(m_kernels, m_filters),
        metric=metric,
        scaled=normalize == "minmax",
    )


def norm_score(w: Tensor, p: int = 2, axis: Any = "out") -> Tensor:
    return weights.norm_score(w, p=p, axis=axis)


def fpgm(w: Tensor) -> Tensor:
    return weights.fpgm(w)


def fpgm_distance(w: Tensor) -> Tensor:
    return weights.fpgm_distance(w)


hrank = maps.hrank
chip = maps.chip


def unfold(x: Tensor, kernel: int, stride: int = 1, padding: int = 0) -> Tensor:
    return unfolded(x, kernel=kernel, stride=stride, padding=padding)


def conv2d(
    x: Tensor, w: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    return F.conv2d(x, w, bias, stride=stride, padding=padding)


def ls_reconstruct(
    x: Tensor, y: Tensor, kept: Tensor, bias: Tensor | None = None, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    return reconstruct(x, y, kept=kept, bias=bias, ridge=ridge)


def n_kept(n: int, ratio: float) -> int:
    return kept_count(n, sparsity=ratio)


def select(scores: Tensor, keep: int) -> Tensor:
    return ranking(scores)[:keep].sort().values


def as_tensor(value: Any, dtype: torch.dtype) -> Any:
    """Arrays as tensors, floating ones in ``dtype``."""
    if isinstance(value, list):
        return [as_tensor(item, dtype) for item in value]
    tensor = torch.as_tensor(value)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
