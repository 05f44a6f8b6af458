"""The package's functions under the names and arguments of the golden vectors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_env import least_squares, selection
from amc_env.criteria import maps, weights
from amc_env.information import aura, filters


def _scope(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def quantize(x: Tensor, bins: int, scope: Any = "channel") -> Tensor:
    return aura.quantize(x, bins=bins, scope=_scope(scope))


def joint_histogram(q: Tensor, offset: list[int], bins: int) -> Tensor:
    return aura.pair_counts(q, offset=(offset[0], offset[1]), bins=bins)


def ame_of_symbols(q: Tensor, bins: int, h0: Any = "pair") -> float:
    return aura.ame_of_symbols(q, bins=bins, h0=h0)


def spatial_entropy_ame(x: Tensor, **options: Any) -> Tensor:
    return aura.spatial_entropy(x, **options)


def live_channels(x: Tensor, **options: Any) -> Tensor:
    return aura.live_channels(x, **options)


def layer_entropy(x: Tensor, **options: Any) -> float:
    return aura.layer_entropy(x, **options)


def entropy_reward(layers: list[Tensor], **options: Any) -> float:
    return aura.entropy_reward(layers, **options)


def filter_entropy(w: Tensor, m: int | None = None) -> Tensor:
    return filters.filter_entropy(w, nearest=m)


def capacity(w: Tensor, normalize: bool = False) -> Tensor:
    return filters.capacity(w, normalize=normalize)


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


def norm_score(w: Tensor, p: int, axis: Any) -> Tensor:
    return weights.norm_score(w, p=p, axis=axis)


def fpgm(w: Tensor) -> Tensor:
    return weights.fpgm(w)


def fpgm_distance(w: Tensor) -> Tensor:
    return weights.fpgm_distance(w)


hrank = maps.hrank
chip = maps.chip


def unfold(x: Tensor, kernel: int, stride: int = 1, padding: int = 0) -> Tensor:
    return least_squares.unfold(x, kernel=kernel, stride=stride, padding=padding)


def conv2d(x: Tensor, w: Tensor, bias: Tensor, padding: int) -> Tensor:
    return F.conv2d(x, w, bias, padding=padding)


def ls_reconstruct(
    x: Tensor, y: Tensor, kept: Tensor, bias: Tensor | None = None, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    return least_squares.reconstruct(x, y, kept=kept, bias=bias, ridge=ridge)


def n_kept(n: int, ratio: float) -> int:
    return selection.kept_count(n, sparsity=ratio)


def select(scores: Tensor, keep: int) -> Tensor:
    return selection.best_channels(scores, count=keep)


def as_tensor(value: Any, dtype: torch.dtype) -> Any:
    """Arrays as tensors, floating ones in ``dtype``."""
    if isinstance(value, list):
        return [as_tensor(item, dtype) for item in value]
    tensor = torch.as_tensor(value)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
