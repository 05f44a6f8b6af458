r"""Least squares for the weights that read pruned channels, factored once for every sparsity.

A layer reads rows ``X`` (rows, columns), one column for every input of a kernel, and should give
``Y`` (rows, outputs). Only ``G = X'X`` and ``B = X'Y`` are needed. When columns go, the weights of
those that stay are solved for again, pulled towards the original weights ``W0`` by a small ridge:

.. math:: \min_W |X_m W - Y|^2 + \lambda |W - W_{0,m}|^2
          \quad\Longleftrightarrow\quad (G_m + \lambda I) W = B_m + \lambda W_{0,m}

``Y`` stays the output of all columns, and ``lambda`` is the same for any number of columns kept: a
multiple of the mean of the whole diagonal of ``G``. With columns in the order in which they are to
stay, the leading block of one Cholesky factor of ``G + lambda I`` is the factor of every smaller
problem, so each number kept costs one triangular solve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that a triangular solve takes at once.
_BLOCK = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """What a least squares problem is, without its rows.

    Attributes:
        gram: ``X'X``, (columns, columns), float64.
        cross: ``X'Y``, (columns, outputs), float64.
        anchor: The original weights ``W0``, (columns, outputs), float64.
        target: ``|Y|^2`` of each output, (outputs,), float64.
        is_own: Whether ``Y = X W0``, so that all columns together need no new weights.
    """

    gram: Tensor
    cross: Tensor
    anchor: Tensor
    target: Tensor
    is_own: bool = False

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
            if not given.isfinite().all():
                raise ValueError(f"{name} holds NaN or infinite values; check the rows")

    @classmethod
    def of_layer(cls, gram: Tensor, weight: Tensor) -> "NormalEquations":
        """The problem of giving back a layer's own outputs ``Y = X W0``."""
        anchor = weight.double()
        cross = gram @ anchor
        target = (anchor * cross).sum(0).clamp_min(0)
        return cls(gram=gram, cross=cross, anchor=anchor, target=target, is_own=True)

    def penalty(self, ridge: float) -> float:
        """The ridge as a multiple of the mean square of a column; 1 where all columns are dead."""
        if not ridge >= 0:
            raise ValueError(f"ridge is {ridge}; give 0 or more")
        scale = float(self.gram.diagonal().mean())
        return ridge * scale if scale > 0 else 1.0

    def solve(self, columns: Tensor, *, ridge: float, outputs: Tensor | None = None) -> Tensor:
        """Weights (columns, outputs) of any set of columns; without a ridge those nearest to W0."""
        chosen = slice(None) if outputs is None else outputs
        anchor = self.anchor[columns][:, chosen]
        if self.is_own and len(columns) == len(self.anchor):
            return anchor
        gram = self.gram[columns][:, columns]
        wanted = self.cross[columns][:, chosen] - gram @ anchor
        ridged = gram.clone()
        ridged.diagonal().add_(self.penalty(ridge))
        factor, failed = torch.linalg.cholesky_ex(ridged)
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
        self._ends = torch.tensor([len(block) for block in blocks]).cumsum(0).tolist()
        self._ridge = ridge
        self._penalty = equations.penalty(ridge)
        self._anchor = equations.anchor[self._order]
        self._target = equations.target
        self._is_whole = equations.is_own and len(self._order) == len(equations.anchor)
        gram = equations.gram[self._order][:, self._order]
        gram.diagonal().add_(self._penalty)
        factor, failed = torch.linalg.cholesky_ex(gram)
        self._factor = None if failed or not _is_well_posed(factor) else factor
        # The factor says all that the Gram matrix does, which is not held beside it.
        self._unfactored = equations if self._factor is None else None
        if self._factor is not None:
            wanted = equations.cross[self._order] + self._penalty * self._anchor
            self._solved = torch.linalg.solve_triangular(self._factor, wanted, upper=False)

    def columns(self, count: int) -> Tensor:
        """The columns of the first ``count`` blocks, in block order."""
        return self._order[: self._size(count)]

    def weights(self, count: int, outputs: Tensor | None = None) -> Tensor:
        """Weights of ``columns(count)`` for all outputs, or for some."""
        size = self._size(count)
        chosen = slice(None) if outputs is None else outputs
        if self._is_whole and size == len(self._order):
            own: Tensor = self._anchor[:, chosen].clone()
            return own
        if self._factor is None:
            return self._direct().solve(self.columns(count), ridge=self._ridge, outputs=outputs)
        return _solve_back(self._factor[:size, :size], self._solved[:size][:, chosen])

    def columns_of(self, blocks: Tensor) -> Tensor:
        """The columns of some blocks, in the order of ``blocks``."""
        return self._order[self._places(blocks)]

    def weights_of(self, blocks: Tensor, outputs: Tensor | None = None) -> Tensor:
        r"""Weights of ``columns_of(blocks)``, by a solve of their own.

        With :math:`L` the factor and :math:`S` the blocks' rows, the smaller problem is

        .. math:: (L_S L_S') W = (L T)_S
        """
        places = self._places(blocks)
        if self._factor is None:
            return self._direct().solve(self._order[places], ridge=self._ridge, outputs=outputs)
        chosen = slice(None) if outputs is None else outputs
        rows = self._factor[places]
        factor = torch.linalg.cholesky(rows @ rows.mT)
        return torch.cholesky_solve(rows @ self._solved[:, chosen], factor)

    def errors(self) -> Tensor:
        r"""``|XW - Y| / |Y|`` for 1, 2, ... blocks kept, all from the one factorisation.

        .. math:: |X W_m - Y|^2
                  = |Y|^2 - |T_m|^2 - \lambda |W_m|^2 + 2 \lambda \langle W_m, W_{0,m} \rangle

        ``T`` is the solved lower triangle. With ``M`` the inverse of the factor, ``W_m`` is the sum
        of the outer products of the first rows of ``M`` and ``T``, so that

        .. math:: |W_m|^2 = \sum_{i,j \le m} (M M')_{ij} (T T')_{ij}
                  \qquad \langle W_m, W_{0,m} \rangle = \sum_{i \le m} T_i \cdot (M W_0)_i

        are running sums too. Rounding leaves an error of about 1e-8.
        """
        if self._factor is None:
            return torch.stack([self.error(m + 1) for m in range(len(self._ends))])
        total = self._target.sum()
        explained = (self._solved.square().sum(1) + self._penalty * self._pull()).cumsum(0)
        lost = (total - explained[torch.tensor(self._ends) - 1]).clamp_min(0)
        errors: Tensor = (lost / _positive(total)).sqrt()
        if self._is_whole:
            errors[-1] = 0.0
        return errors

    def error(self, count: int) -> Tensor:
        """``|XW - Y| / |Y|`` with ``count`` blocks kept, from its weights."""
        weight = self.weights(count)
        if self._factor is None:
            residual = self._direct().residual(self.columns(count), weight)
        else:
            # With F the factor, G = F F' - penalty and X'Y = F T - penalty W0.
            factor, size = self._factor[: len(weight), : len(weight)], len(weight)
            cross = factor @ self._solved[:size] - self._penalty * self._anchor[:size]
            gram = factor @ (factor.mT @ weight) - self._penalty * weight
            residual = (self._target + (weight * (gram - 2 * cross)).sum(0)).clamp_min(0)
        relative: Tensor = (residual.sum() / _positive(self._target.sum())).sqrt()
        return relative

    def _direct(self) -> NormalEquations:
        if self._unfactored is None:
            raise RuntimeError("a factored problem is not solved directly")
        return self._unfactored

    def _pull(self) -> Tensor:
        """What each column adds to ``|W|^2 - 2 <W, W0>``, (columns,)."""
        if self._factor is None or self._penalty == 0:
            return self._anchor.new_zeros(len(self._anchor))
        identity = torch.eye(len(self._factor)).to(self._factor)
        inverse = torch.linalg.solve_triangular(self._factor, identity, upper=False)
        pairs = (inverse @ inverse.mT).mul_(self._solved @ self._solved.mT)
        squared = 2 * pairs.tril().sum(1) - pairs.diagonal()
        along = (self._solved * (inverse @ self._anchor)).sum(1)
        added: Tensor = squared - 2 * along
        return added

    def _places(self, blocks: Tensor) -> Tensor:
        """Where the columns of some blocks stand in the order."""
        starts = [0, *self._ends]
        return torch.cat([torch.arange(starts[b], starts[b + 1]) for b in blocks.tolist()])

    def _size(self, count: int) -> int:
        if not 1 <= count <= len(self._ends):
            raise ValueError(
                f"{count} blocks cannot be kept; give a number from 1 to {len(self._ends)}"
            )
        return int(self._ends[count - 1])


def _solve_back(factor: Tensor, solved: Tensor) -> Tensor:
    """``L^-T T`` block by block: products of matrices are faster than one long solve."""
    weight = solved.clone()
    for end in range(len(factor), 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        block = factor[start:end, start:end].mT
        weight[start:end] = torch.linalg.solve_triangular(block, weight[start:end], upper=True)
        if start:
            weight[:start].addmm_(factor[start:end, :start].mT, weight[start:end], alpha=-1)
    return weight


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
    one to it. ``x`` is (rows, channels, k), ``y`` (rows, outputs); ``bias`` is taken off ``y``, and
    ``ridge`` times ``|W|^2`` is added to what is minimised. Solved in float64.

    Raises:
        ValueError: There are no rows, or not as many in ``y``, or they are not finite.
    """
    _check_rows(x, y)
    rows = x[:, kept].flatten(1).double()
    target = (y if bias is None else y - bias).double()
    if ridge:
        gram = rows.mT @ rows + ridge * torch.eye(rows.shape[1]).to(rows)
        weight = torch.linalg.solve(gram, rows.mT @ target)
    else:
        weight = torch.linalg.pinv(rows) @ target
    residual = (rows @ weight - target).norm() / _positive(target.norm())
    shaped = weight.mT.reshape(y.shape[1], len(kept), -1)
    return shaped.to(x.dtype), residual.to(x.dtype)


def _check_rows(x: Tensor, y: Tensor) -> None:
    if x.dim() != 3 or y.dim() != 2 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"x has the shape {tuple(x.shape)} and y {tuple(y.shape)}; give (rows, channels, k) "
            "and (rows, outputs) with as many rows, at least one"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x or y holds NaN or infinite values; leave those rows out")


def _is_well_posed(factor: Tensor) -> bool:
    diagonal = factor.diagonal()
    return bool(diagonal.min() > 1e-7 * diagonal.max()) if len(diagonal) else True


def _positive(total: Tensor) -> Tensor:
    return total.clamp_min(torch.finfo(total.dtype).tiny)
