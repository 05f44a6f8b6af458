r"""Least squares for the weights that read pruned channels, factored once for every sparsity.

A layer reads rows ``X`` (rows, columns), one column for every input of a kernel, and should give
``Y`` (rows, outputs). Only ``G = X'X`` and ``B = X'Y`` are needed. When columns go, the weights of
those that stay are solved for again, pulled towards the original weights ``W0`` by a small ridge:

.. math:: \min_W |X_m W - Y|^2 + \lambda |W - W_{0,m}|^2
          \quad\Longleftrightarrow\quad (G_m + \lambda I) W = B_m + \lambda W_{0,m}

With columns in the order in which they are to stay, the leading block of one Cholesky factor of
``G + lI`` is the factor of every smaller problem, so each number kept costs one triangular solve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """What a least squares problem is, without its rows.

    Attributes:
        gram: ``X'X``, (columns, columns), float64.
        cross: ``X'Y``, (columns, outputs), float64.
        anchor: The original weights ``W0``, (columns, outputs), float64.
        target: ``|Y|^2`` of each output, (outputs,), float64.
    """

    gram: Tensor
    cross: Tensor
    anchor: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        columns, outputs = self.anchor.shape
        expected = {"gram": (columns, columns), "cross": (columns, outputs), "target": (outputs,)}
        for name, shape in expected.items():
            given: Tensor = getattr(self, name)
            if given.shape != shape or given.dtype != torch.float64:
                raise ValueError(
                    f"{name} has the shape {tuple(given.shape)} and type {given.dtype}; "
                    f"give {shape} in float64"
                )

    @classmethod
    def of_layer(cls, gram: Tensor, weight: Tensor) -> "NormalEquations":
        """The problem of giving back a layer's own outputs ``Y = X W0``."""
        anchor = weight.double()
        cross = gram @ anchor
        return cls(gram=gram, cross=cross, anchor=anchor, target=(anchor * cross).sum(0))

    def penalty(self, ridge: float) -> float:
        """The ridge as a multiple of the mean square of a column; 1 where all columns are dead."""
        scale = float(self.gram.diagonal().mean())
        return ridge * scale if scale > 0 else 1.0

    def solve(self, columns: Tensor, *, ridge: float) -> Tensor:
        """Weights (columns, outputs) of any set of columns; without a ridge those nearest to W0."""
        gram = self.gram[columns][:, columns]
        anchor = self.anchor[columns]
        wanted = self.cross[columns] - gram @ anchor
        penalty = self.penalty(ridge)
        factor, failed = torch.linalg.cholesky_ex(gram + penalty * torch.eye(len(gram)).to(gram))
        if failed or not _is_well_posed(factor):
            change: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ wanted
        else:
            change = torch.cholesky_solve(wanted, factor)
        return anchor + change

    def residual(self, columns: Tensor, weight: Tensor) -> Tensor:
        """``|X W - Y|^2`` of each output, (outputs,)."""
        gram = self.gram[columns][:, columns]
        fit = (weight * (gram @ weight - 2 * self.cross[columns])).sum(0)
        return (self.target + fit).clamp_min(0)


class FactoredLeastSquares:
    """The solutions for every number of leading blocks, from one factorisation.

    Args:
        equations: The problem with all columns.
        blocks: Column indices of each block, in the order in which blocks are to stay. The first
            ``m`` blocks are the problem with ``m`` blocks kept.
        ridge: Pull towards the original weights, relative to the mean square of a column.
    """

    def __init__(
        self, equations: NormalEquations, blocks: Sequence[Tensor], *, ridge: float
    ) -> None:
        self._order = torch.cat(list(blocks))
        self._ends = torch.tensor([len(block) for block in blocks]).cumsum(0)
        self._equations = equations
        self._ridge = ridge
        self._penalty = equations.penalty(ridge)
        self._anchor = equations.anchor[self._order]
        gram = equations.gram[self._order][:, self._order]
        gram.diagonal().add_(self._penalty)
        factor, failed = torch.linalg.cholesky_ex(gram)
        self._factor = None if failed or not _is_well_posed(factor) else factor
        if self._factor is not None:
            wanted = equations.cross[self._order] + self._penalty * self._anchor
            self._solved = torch.linalg.solve_triangular(self._factor, wanted, upper=False)

    def columns(self, count: int) -> Tensor:
        """The columns of the first ``count`` blocks, in block order."""
        return self._order[: int(self._ends[count - 1])]

    def weights(self, count: int, outputs: Tensor | None = None) -> Tensor:
        """Weights of ``columns(count)`` for all outputs, or for some."""
        size = int(self._ends[count - 1])
        if self._factor is None:
            direct = self._equations.solve(self.columns(count), ridge=self._ridge)
            return direct if outputs is None else direct[:, outputs]
        solved = self._solved[:size] if outputs is None else self._solved[:size][:, outputs]
        weight: Tensor = torch.linalg.solve_triangular(
            self._factor[:size, :size].mT, solved, upper=True
        )
        return weight

    def errors(self) -> Tensor:
        r"""``|XW - Y| / |Y|`` for 1, 2, ... blocks kept; an upper bound that counts the ridge in.

        .. math:: |Y|^2 + \lambda |W_{0,m}|^2 - |T_m|^2 = |X W - Y|^2 + \lambda |W - W_{0,m}|^2

        The left side, with ``T`` the solved lower triangle, is free for every number kept.
        ``error`` takes the last term off.
        """
        total = self._equations.target.sum()
        if self._factor is None:
            return torch.stack([self.error(m + 1) for m in range(len(self._ends))])
        gained = (self._solved.square() - self._penalty * self._anchor.square()).sum(1).cumsum(0)
        lost: Tensor = (total - gained[self._ends - 1]).clamp_min(0)
        return (lost / _positive(total)).sqrt()

    def error(self, count: int) -> Tensor:
        """``|XW - Y| / |Y|`` with ``count`` blocks kept, exactly."""
        residual = self._equations.residual(self.columns(count), self.weights(count)).sum()
        relative: Tensor = (residual / _positive(self._equations.target.sum())).sqrt()
        return relative


def unfold(
    x: Tensor, *, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """What a convolution multiplies with its weights: (rows, channels, kernel * kernel).

    Rows are ordered (sample, row, column).
    """
    patches = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
    return patches.mT.reshape(-1, x.shape[1], kernel * kernel)


def reconstruct(
    x: Tensor, y: Tensor, *, kept: Tensor, bias: Tensor | None = None, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weights (outputs, kept, k) that give back ``y`` from some channels, and ``|XW - Y| / |Y|``.

    The direct solution on rows, of least norm where several are best; the tests hold the factored
    one to it. ``x`` is (rows, channels, k), ``y`` (rows, outputs); ``bias`` is taken off ``y``.
    """
    rows = x[:, kept].flatten(1)
    target = y if bias is None else y - bias
    if ridge:
        gram = rows.mT @ rows + ridge * torch.eye(rows.shape[1]).to(rows)
        weight = torch.linalg.solve(gram, rows.mT @ target)
    else:
        weight = torch.linalg.pinv(rows) @ target
    residual = (rows @ weight - target).norm() / _positive(target.norm())
    return weight.mT.reshape(y.shape[1], len(kept), -1), residual


def _is_well_posed(factor: Tensor) -> bool:
    diagonal = factor.diagonal()
    return bool(diagonal.min() > 1e-7 * diagonal.max()) if len(diagonal) else True


def _positive(total: Tensor) -> Tensor:
    return total.clamp_min(torch.finfo(total.dtype).tiny)
