r"""Matrix-based Rényi entropy and mutual information of samples.

This is the entropy of the HRel method (Sarvani et al., "HRel", 2022). Musat and Andonie, "Spatial
Aura Entropy", 2023, replace it by an entropy of aura matrices; it is implemented here for
comparison. The kernel's width follows the data, so neither scale nor shift of the samples changes
the result.
"""

from math import log
from typing import Literal

import torch
from torch import Tensor

Width = Literal["mean", "median"] | tuple[Literal["knn"], int] | float
Form = Literal["2s2", "s2"]
_DIVISORS = {"2s2": 2.0, "s2": 1.0}
# Equation 1 is 0 / 0 at alpha 1, where its limit is Shannon's entropy.
_SHANNON = 1e-12


def kernel_width(distances: Tensor, *, rule: Width = "mean") -> Tensor:
    """The width ``s`` of a Gaussian kernel from distances (n, n) between samples, a scalar.

    ``"mean"`` and ``"median"`` are of the distances between different samples, ``("knn", k)`` is
    the mean distance to the ``k`` nearest others; a number is taken as it is. Tang et
    al., 2023, do not say which rule they use; chosen here: the mean. 0 for a single sample.

    Raises:
        ValueError: The rule does not exist or ``k`` is below 1.
    """
    if isinstance(rule, int | float):
        return distances.new_full((), rule)
    count = len(distances)
    if count < 2:
        return distances.new_zeros(())
    pairs = distances[tuple(torch.triu_indices(count, count, offset=1, device=distances.device))]
    if isinstance(rule, tuple):
        kind, nearest = str(rule[0]), rule[1]
        if kind != "knn" or nearest < 1:
            raise ValueError(f"width {rule!r} does not exist; give ('knn', k) with k of 1 or more")
        far = distances.clone().fill_diagonal_(float("inf"))
        return far.topk(min(nearest, count - 1), largest=False).values.mean()
    if rule == "mean":
        return pairs.mean()
    if rule != "median":
        raise ValueError(
            f"width {rule!r} does not exist; choose mean, median, ('knn', k) or a number"
        )
    ordered = pairs.sort().values
    return (ordered[(len(pairs) - 1) // 2] + ordered[len(pairs) // 2]) / 2


def gram(features: Tensor, *, width: Width = "mean", form: Form = "2s2") -> Tensor:
    r"""The Gaussian kernel matrix (n, n) of samples (n, ...), float64.

    .. math:: K_{ab} = \exp\left(-\frac{|f_a - f_b|^2}{2 s^2}\right)

    ``f`` are the flattened samples, ``s`` their kernel's width (see ``kernel_width``);
    ``form="s2"`` leaves the 2 out. Tang et al., "Information Capacity and Independence", 2023, the
    kernel below equation 1. Chosen here: the limit at width 0, which is 1 where samples are equal
    and 0 elsewhere.

    Raises:
        ValueError: There are no samples, or the width or form does not exist.
    """
    if features.dim() < 1 or features.numel() == 0:
        raise ValueError(f"features have the shape {tuple(features.shape)}; give (samples, ...)")
    if form not in _DIVISORS:
        raise ValueError(f"form {form!r} does not exist; choose one of {', '.join(_DIVISORS)}")
    rows = features.double().reshape(len(features), -1)
    # |a|^2 + |b|^2 - 2ab would lose the digits of samples far from 0.
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    scale = kernel_width(distances, rule=width)
    if scale <= 0:
        return (distances == 0).double()
    return distances.div_(scale).square_().div_(-_DIVISORS[form]).exp_()


def entropy_of_gram(kernel: Tensor, *, alpha: float = 1.01) -> Tensor:
    r"""Rényi entropy in bits of kernel matrices (..., n, n), (...), float64.

    .. math:: H_\alpha = \frac{1}{1 - \alpha} \log_2 \sum_i \lambda_i^\alpha

    ``lambda`` are the eigenvalues of ``K / tr K``. Tang et al., "Information Capacity and
    Independence", 2023, equation 1. Chosen here: negative eigenvalues are rounding and count as 0,
    the rest is scaled to sum 1; Shannon's entropy of the eigenvalues at ``alpha`` 1.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; give a number above 0")
    trace = kernel.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eigenvalues = torch.linalg.eigvalsh(kernel.double() / trace).clamp_min(0.0)
    share = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    if abs(alpha - 1.0) < _SHANNON:
        nats: Tensor = -torch.special.xlogy(share, share).sum(-1)
        return nats / log(2.0)
    bits: Tensor = share.pow(alpha).sum(-1).log2() / (1.0 - alpha)
    return bits


def renyi_entropy(
    features: Tensor, *, alpha: float = 1.01, width: Width = "mean", form: Form = "2s2"
) -> Tensor:
    """Rényi entropy in bits of samples (n, ...), a scalar from 0 to log2 n."""
    kernel = gram(features, width=width, form=form)
    return entropy_of_gram(kernel, alpha=alpha).to(features.dtype)


def renyi_channel_entropy(
    x: Tensor, *, alpha: float = 1.01, width: Width = "mean", form: Form = "2s2"
) -> Tensor:
    """``renyi_entropy`` of each channel of maps (N, C, H, W), every map a sample: (C,)."""
    _check_maps(x)
    kernels = torch.stack([gram(channel, width=width, form=form) for channel in x.unbind(1)])
    return entropy_of_gram(kernels, alpha=alpha).to(x.dtype)


def renyi_mi(
    x: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.01,
    width: Width = "mean",
    form: Form = "2s2",
) -> Tensor:
    r"""Rényi mutual information in bits of each channel with the class, (C,); higher means keep.

    .. math:: I = S(K_x) + S(K_y) - S(K_x \circ K_y)

    ``K_x`` is the kernel of a channel's maps (N, C, H, W), ``K_y`` that of the labels (N,), ``S``
    ``entropy_of_gram``. Musat and Andonie, "Spatial Aura Entropy", 2023, section 4 (HRel), replace
    it by ``grid_mi``. Chosen here: ``K_y`` is 1 where labels are equal, else 0, and the product is
    trace-normalised again.

    Raises:
        ValueError: ``x`` is no batch of maps, or there is not one label for each sample.
    """
    _check_maps(x)
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; give one for each of {len(x)} samples"
        )
    same = (labels[:, None] == labels).double()
    kernels = torch.stack([gram(channel, width=width, form=form) for channel in x.unbind(1)])
    own, joint = (entropy_of_gram(k, alpha=alpha) for k in (kernels, kernels * same))
    return (own + entropy_of_gram(same, alpha=alpha) - joint).to(x.dtype)


def _check_maps(x: Tensor) -> None:
    if x.dim() != 4 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(
            f"maps have the shape {tuple(x.shape)} and type {x.dtype}; "
            "give floating point (samples, channels, height, width) with no dimension of size 0"
        )
