"""Scores of channels from feature maps (samples, channels, H, W); the highest are kept longest."""

import torch
from torch import Tensor

# Matrices with this many entries in all, of 8 bytes each, are decomposed together.
_ENTRIES_AT_ONCE = 2**23


def hrank(x: Tensor) -> Tensor:
    r"""Mean rank of each channel's maps over samples, (channels,) (HRank).

    .. math:: \frac{1}{N} \sum_n |\{i : \sigma_i > \max(H, W) \, \epsilon \, \sigma_1\}|

    ``sigma`` are the singular values of one map of ``x`` (N, channels, H, W), greatest first, found
    in float64. Lin et al., "HRank", 2020, who do not say when a singular value counts. Chosen here:
    ``epsilon`` is that of the type of ``x``, so that a rank does not count the rounding of the
    maps.

    Raises:
        ValueError: ``x`` is no batch of maps.
    """
    _check_maps(x)
    limit = max(x.shape[-2:]) * torch.finfo(x.dtype).eps
    maps = x.double().flatten(0, 1)
    together = max(1, _ENTRIES_AT_ONCE // maps[0].numel())
    ranks = [_ranks(part, limit) for part in maps.split(together)]
    return torch.cat(ranks).view(x.shape[:2]).double().mean(0).to(x.dtype)


def chip(x: Tensor) -> Tensor:
    r"""Mean decrease of the nuclear norm when a channel's row is removed, (channels,) (CHIP).

    .. math:: \frac{1}{N} \sum_n |A_n|_* - |A_{n, -c}|_*

    ``A`` is the (channels, H * W) matrix of one sample's maps of ``x`` (N, channels, H, W), ``-c``
    leaves row ``c`` out, and the nuclear norm is the sum of singular values. Sui et al., "CHIP",
    2021. Chosen here: the mean over samples.

    Raises:
        ValueError: ``x`` is no batch of maps.
    """
    _check_maps(x)
    return (
        torch.stack([_nuclear_losses(rows.flatten(1)) for rows in x.double()]).mean(0).to(x.dtype)
    )


def _ranks(matrices: Tensor, limit: float) -> Tensor:
    values: Tensor = torch.linalg.svdvals(matrices)
    return (values > limit * values[:, :1]).sum(-1)


def _nuclear_losses(rows: Tensor) -> Tensor:
    channels, pixels = rows.shape
    if pixels > channels:
        # The norm depends on the products of rows alone, which the triangular factor has as well.
        rows = torch.linalg.qr(rows.mT, mode="r").R.mT
    whole: Tensor = torch.linalg.svdvals(rows).sum()
    together = max(1, _ENTRIES_AT_ONCE // rows.numel())
    indices = torch.arange(channels, device=rows.device)
    kept: list[Tensor] = [
        torch.linalg.svdvals(rows * (indices != part[:, None])[:, :, None]).sum(-1)
        for part in indices.split(together)
    ]
    return whole - torch.cat(kept)


def _check_maps(x: Tensor) -> None:
    if x.dim() != 4 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(
            f"maps have the shape {tuple(x.shape)} and type {x.dtype}; "
            "give floating point (samples, channels, height, width) with no dimension of size 0"
        )
