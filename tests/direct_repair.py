"""Least squares straight from the rows, which the tests hold the package's solvers to."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold(
    x: Tensor, *, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """The inputs that a convolution multiplies with its weights: (rows, channels, kernel * kernel).

    Rows are ordered (sample, row, column).
    """
    patches = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
    return patches.mT.reshape(-1, x.shape[1], kernel * kernel)


def reconstruct(
    x: Tensor, y: Tensor, *, kept: Tensor, bias: Tensor | None = None, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weights (outputs, kept, k) that give back ``y`` from some channels, and ``|XW - Y| / |Y|``.

    Of several best solutions it is the one of least norm. ``x`` is (rows, channels, k) and ``y``
    (rows, outputs); ``bias`` is taken off ``y``, and ``ridge`` times ``|W|^2`` is added to what is
    minimised. Solved in float64.
    """
    rows = x[:, kept].flatten(1).double()
    target = (y if bias is None else y - bias).double()
    if ridge:
        gram = rows.mT @ rows + ridge * torch.eye(rows.shape[1]).to(rows)
        weight = torch.linalg.solve(gram, rows.mT @ target)
    else:
        weight = torch.linalg.pinv(rows) @ target
    residual = (rows @ weight - target).norm() / target.norm().clamp_min(1e-300)
    shaped = weight.mT.reshape(y.shape[1], len(kept), -1)
    return shaped.to(x.dtype), residual.to(x.dtype)
