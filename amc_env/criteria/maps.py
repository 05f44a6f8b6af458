"""Scores of channels from their feature maps (samples, channels, H, W) alone."""

import torch
from torch import Tensor


def hrank(x: Tensor) -> Tensor:
    """Mean rank of each channel's maps over samples, (channels,) (HRank).

    A singular value counts above ``max(H, W) * eps * largest``, with the eps of the type of ``x``.
    """
    values = torch.linalg.svdvals(x.double())
    smallest = max(x.shape[-2:]) * torch.finfo(x.dtype).eps * values[..., :1]
    ranks: Tensor = (values > smallest).sum(-1)
    return ranks.double().mean(0).to(x.dtype)


def chip(x: Tensor) -> Tensor:
    r"""Mean loss of nuclear norm when a channel's row goes, (channels,) (CHIP).

    .. math:: |A|_* - |A_{-c}|_*

    ``A`` is the (channels, H * W) matrix of one sample's maps.
    """
    rows = x.double().flatten(2)
    whole = _nuclear(rows)
    losses = [whole - _nuclear(_without_row(rows, channel)) for channel in range(x.shape[1])]
    return torch.stack(losses, dim=1).mean(0).to(x.dtype)


def _nuclear(matrices: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(matrices)
    return values.sum(-1)


def _without_row(matrices: Tensor, row: int) -> Tensor:
    return torch.cat([matrices[:, :row], matrices[:, row + 1 :]], dim=1)
