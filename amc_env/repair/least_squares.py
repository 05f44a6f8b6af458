r"""Least squares for the weights that read pruned channels, factored once for every sparsity.

A layer reads rows ``X`` (rows, columns), one column for every input of a kernel, and its outputs
``Y`` (rows, outputs) are to be kept. Only ``G = X'X`` and ``B = X'Y`` are needed. When columns are
removed, the weights of the others are solved for, with a small ridge that pulls them towards the
original weights ``W0``:

.. math:: \min_W |X_m W - Y|^2 + \lambda |W - W_{0,m}|^2
          \quad\Longleftrightarrow\quad (G_m + \lambda I) W = B_m + \lambda W_{0,m}

``Y`` stays the output of all columns, and ``lambda`` is the same for any number of columns kept: a
multiple of the mean of the whole diagonal of ``G``. Factoring ``G_m`` anew for every ``m`` would
cost a cubic number of operations each time. But if the columns are sorted so that the most
important come first, the leading block of one Cholesky factor of ``G + lambda I`` is the factor of
every smaller problem, and each ``m`` costs one triangular solve.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.devices import with_float64

# How many rows a triangular solve takes at once.
_BLOCK = 256
# A factor whose smallest diagonal entry is below this share of the largest is not solved with. The
# Gram matrix of activations in float32 is exact to about 1e-7, and pivots are squares of these.
_SMALLEST_PIVOT = 1e-7


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalEquations:
    """A least squares problem, of which the rows themselves are no longer needed.

    Attributes:
        gram: ``X'X``, (columns, columns), float64.
        cross: ``X'Y``, (columns, outputs), float64.
        anchor: The original weights ``W0``, (columns, outputs), float64.
        target: ``|Y|^2`` of each output, (outputs,), float64.
        is_own: Whether ``Y = X W0``, so that ``W0`` is the solution where no column is removed.
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
        """The problem whose target is the layer's own output ``Y = X W0``."""
        anchor = weight.double()
        cross = gram @ anchor
        target = (anchor * cross).sum(0).clamp_min(0)
        return cls(gram=gram, cross=cross, anchor=anchor, target=target, is_own=True)

    def penalty(self, ridge: float) -> float:
        """``lambda``: the ridge times the mean square of a column; 1 where all columns are zero."""
        if not ridge >= 0:
            raise ValueError(f"ridge is {ridge}; give 0 or more")
        return ridge * self._scale if self._scale > 0 else 1.0

    @cached_property
    def _scale(self) -> float:
        # Asked of the device once: every question waits for all that a GPU still has to do.
        return float(self.gram.diagonal().mean())

    def solve(self, columns: Tensor, *, ridge: float, outputs: Tensor | None = None) -> Tensor:
        """Weights (columns, outputs) of any set of columns; without a ridge those nearest to W0."""
        chosen = slice(None) if outputs is None else outputs
        anchor = self.anchor[columns][:, chosen]
        if self.is_own and len(columns) == len(self.anchor):
            return anchor
        gram = self.gram[columns][:, columns]
        return nearest(gram, self.cross[columns][:, chosen], anchor, self.penalty(ridge))

    def residual(self, columns: Tensor, weight: Tensor) -> Tensor:
        """``|X W - Y|^2`` of each output, (outputs,)."""
        gram = self.gram[columns][:, columns]
        fit = (weight * (gram @ weight - 2 * self.cross[columns])).sum(0)
        return (self.target + fit).clamp_min(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    r"""All that a factored problem is solved from, with the columns in the order of their blocks.

    The factor holds all that the Gram matrix does, so that matrix is not kept.

    Attributes:
        factor: ``L``, the Cholesky factor of :math:`G + \lambda I`, (columns, columns).
        solved: :math:`T = L^{-1} (B + \lambda W_0)`, (columns, outputs).
        anchor: The original weights ``W0``, (columns, outputs).
        target: ``|Y|^2`` of each output, (outputs,).
        penalty: ``lambda``.
        is_own: Whether ``Y`` is the output of the original weights.
        order: The columns of the problem in this order, (columns,).
    """

    factor: Tensor
    solved: Tensor
    anchor: Tensor
    target: Tensor
    penalty: float
    is_own: bool
    order: Tensor

    @classmethod
    def of(
        cls, equations: NormalEquations, factor: Tensor, order: Tensor, *, ridge: float
    ) -> "Factors":
        """The factors of a problem whose Gram matrix, in this order of its columns, is factored."""
        penalty, anchor = equations.penalty(ridge), equations.anchor[order]
        wanted = equations.cross[order] + penalty * anchor
        return cls(
            factor=factor,
            solved=torch.linalg.solve_triangular(factor, wanted, upper=False),
            anchor=anchor,
            target=equations.target,
            penalty=penalty,
            is_own=equations.is_own,
            order=order,
        )


# A problem as it is stated, or as it is solved for all sparsities.
Problem = NormalEquations | Factors


class Solver(ABC):
    """Solves one problem for the first blocks of its columns, or for any blocks.

    Args:
        problem: The problem with all columns.
        blocks: The column indices of each block, the blocks sorted from first to last to be kept.
        ridge: Pull towards the original weights, relative to the mean square of a column.

    Attributes:
        problem: The problem, as the solver reads it.
    """

    def __init__(self, problem: Problem, blocks: Sequence[Tensor], *, ridge: float) -> None:
        self.problem = problem
        self._order = torch.cat(list(blocks))
        self._ends: list[int] = torch.tensor([len(block) for block in blocks]).cumsum(0).tolist()
        self._ridge = ridge
        self._is_whole = problem.is_own and len(self._order) == len(problem.anchor)

    @final
    def columns(self, count: int) -> Tensor:
        """The columns of the first ``count`` blocks, in block order."""
        return self._order[: self._size(count)]

    @final
    def columns_of(self, blocks: Tensor) -> Tensor:
        """The columns of the blocks with these indices, in the order of ``blocks``."""
        return self._order[self._places(blocks)]

    @abstractmethod
    def weights(self, count: int, outputs: Tensor | None = None) -> Tensor:
        """Weights (columns, outputs) of ``columns(count)`` for all outputs, or for some."""

    @abstractmethod
    def weights_of(self, blocks: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Weights (columns, outputs) of ``columns_of(blocks)`` for all outputs, or for some."""

    @abstractmethod
    def errors(self) -> Tensor:
        """``|XW - Y| / |Y|`` with the first 1, 2, ... blocks kept, (blocks,)."""

    @final
    def _places(self, blocks: Tensor) -> Tensor:
        """Where the columns of some blocks stand in the order."""
        starts = [0, *self._ends]
        return torch.cat([torch.arange(starts[b], starts[b + 1]) for b in blocks.tolist()])

    @final
    def _size(self, count: int) -> int:
        if not 1 <= count <= len(self._ends):
            raise ValueError(
                f"{count} blocks cannot be kept; give a number from 1 to {len(self._ends)}"
            )
        return self._ends[count - 1]


def make_solver(problem: Problem, blocks: Sequence[Tensor], *, ridge: float) -> Solver:
    """A solver that holds one factor for all sparsities or, where there is none, solves directly.

    Without a ridge, dead or equal columns make the Gram matrix singular, and rounding may do so
    with a tiny ridge. A problem that is factored already, for these blocks, is not factored again.
    """
    if isinstance(problem, Factors):
        return FactoredSolver(problem, blocks, ridge=ridge)
    order = torch.cat(list(blocks))
    gram = problem.gram[order][:, order]
    gram.diagonal().add_(problem.penalty(ridge))
    factor = _factored(gram)
    # The reordered copy is as large as the factor, so it must not live beside it any longer.
    del gram
    if factor is None:
        return DirectSolver(problem, blocks, ridge=ridge)
    return FactoredSolver(Factors.of(problem, factor, order, ridge=ridge), blocks, ridge=ridge)


@final
class DirectSolver(Solver):
    """Solves every request from the Gram matrix: slower, but a singular problem is solved too."""

    def __init__(
        self, equations: NormalEquations, blocks: Sequence[Tensor], *, ridge: float
    ) -> None:
        super().__init__(equations, blocks, ridge=ridge)
        self._equations = equations

    @override
    def weights(self, count: int, outputs: Tensor | None = None) -> Tensor:
        return self._equations.solve(self.columns(count), ridge=self._ridge, outputs=outputs)

    @override
    def weights_of(self, blocks: Tensor, outputs: Tensor | None = None) -> Tensor:
        return self._equations.solve(self.columns_of(blocks), ridge=self._ridge, outputs=outputs)

    @override
    def errors(self) -> Tensor:
        counts = range(1, len(self._ends) + 1)
        lost = [self._equations.residual(self.columns(m), self.weights(m)).sum() for m in counts]
        errors: Tensor = (torch.stack(lost) / _positive(self._equations.target.sum())).sqrt()
        return errors


@final
class FactoredSolver(Solver):
    r"""Solves from one Cholesky factor of the problem with all columns.

    The weights of the first ``m`` columns are :math:`W_m = L_m^{-T} T_m`, where ``L_m`` and ``T_m``
    are leading blocks of the factor and of what it has solved; see :class:`Factors`.
    """

    def __init__(self, problem: Factors, blocks: Sequence[Tensor], *, ridge: float) -> None:
        super().__init__(problem, blocks, ridge=ridge)
        if not torch.equal(self._order, problem.order):
            raise ValueError("the problem is factored for another order of its columns")
        self._factor, self._solved = problem.factor, problem.solved
        self._anchor, self._target = problem.anchor, problem.target
        self._penalty = problem.penalty

    @override
    def weights(self, count: int, outputs: Tensor | None = None) -> Tensor:
        size = self._size(count)
        chosen = slice(None) if outputs is None else outputs
        if self._is_whole and size == len(self._order):
            own: Tensor = self._anchor[:, chosen].clone()
            return own
        return _solve_back(self._factor[:size, :size], self._solved[:size][:, chosen])

    @override
    def weights_of(self, blocks: Tensor, outputs: Tensor | None = None) -> Tensor:
        # Any set of columns S is a smaller problem too, but the rows L_S of the factor are not
        # triangular. From G + lambda I = L L' and B + lambda W0 = L T follows
        #   (G + lambda I)_SS = L_S L_S'   and   (B + lambda W0)_S = (L T)_S,
        # which only needs a factor of the size of S.
        places = self._places(blocks)
        chosen = slice(None) if outputs is None else outputs
        rows = self._factor[places]
        ridged, wanted = rows @ rows.mT, rows @ self._solved[:, chosen]
        factor = _factored(ridged)
        if factor is not None:
            return torch.cholesky_solve(wanted, factor)
        anchor = self._anchor[places][:, chosen]
        ridged.diagonal().sub_(self._penalty)
        return nearest(ridged, wanted - self._penalty * anchor, anchor, self._penalty)

    @override
    def errors(self) -> Tensor:
        r"""``|XW - Y| / |Y|`` for 1, 2, ... blocks kept, all from the one factorisation.

        .. math:: |X W_m - Y|^2
                  = |Y|^2 - |T_m|^2 - \lambda |W_m|^2 + 2 \lambda \langle W_m, W_{0,m} \rangle

        With ``M`` the inverse of the factor, ``W_m`` is the sum of the outer products of the first
        rows of ``M`` and ``T``, so that

        .. math:: |W_m|^2 = \sum_{i,j \le m} (M M')_{ij} (T T')_{ij}
                  \qquad \langle W_m, W_{0,m} \rangle = \sum_{i \le m} T_i \cdot (M W_0)_i

        are running sums over columns. Rounding leaves an error of about 1e-8.
        """
        # Solving for every number of blocks in turn would cost as many triangular solves; with all
        # terms as running sums the whole curve costs about as much as one factorisation.
        total = self._target.sum()
        explained = (self._solved.square().sum(1) + self._penalty * self._pull()).cumsum(0)
        lost = (total - explained[torch.tensor(self._ends) - 1]).clamp_min(0)
        errors: Tensor = (lost / _positive(total)).sqrt()
        if self._is_whole:
            errors[-1] = 0.0
        return errors

    def _pull(self) -> Tensor:
        """What each column adds to ``|W|^2 - 2 <W, W0>``, (columns,)."""
        if self._penalty == 0:
            return self._anchor.new_zeros(len(self._anchor))
        identity = torch.eye(len(self._factor)).to(self._factor)
        inverse = torch.linalg.solve_triangular(self._factor, identity, upper=False)
        pairs = (inverse @ inverse.mT).mul_(self._solved @ self._solved.mT)
        # Column m adds the pairs (i, m) and (m, i) for i < m and the pair (m, m) once.
        squared = 2 * pairs.tril().sum(1) - pairs.diagonal()
        along = (self._solved * (inverse @ self._anchor)).sum(1)
        added: Tensor = squared - 2 * along
        return added


def _solve_back(factor: Tensor, solved: Tensor) -> Tensor:
    """``L^-T T`` in blocks of rows, from the last to the first."""
    # One triangular solve works row by row, at the speed of memory. In blocks, nearly all of the
    # work is products of matrices, which run at the speed of arithmetic.
    weight = solved.clone()
    for end in range(len(factor), 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        block = factor[start:end, start:end].mT
        weight[start:end] = torch.linalg.solve_triangular(block, weight[start:end], upper=True)
        if start:
            weight[:start].addmm_(factor[start:end, :start].mT, weight[start:end], alpha=-1)
    return weight


def nearest(gram: Tensor, cross: Tensor, anchor: Tensor, penalty: Tensor | float) -> Tensor:
    """The ridge solution or, where it cannot be computed, the least squares solution nearest W0.

    All may be stacks of problems, (..., columns, columns) and so on, with a penalty each.
    """
    # Solving for the change from W0 instead of W: the ridge then drops out of the right side, and
    # the pseudoinverse, which finds the smallest solution, finds the smallest change.
    return anchor + _ridge_solution(gram, cross - gram @ anchor, penalty)


def nearest_of_rows(
    rows: Tensor, wanted: Tensor, anchor: Tensor, penalty: Tensor | float
) -> Tensor:
    r"""``nearest`` for the products of rows: cheaper where there are fewer rows than columns.

    .. math:: W = W_0 + X' (X X' + \lambda I)^{-1} (Y - X W_0)

    is the ridge solution too, since :math:`(X'X + \lambda I) X' = X' (X X' + \lambda I)`.

    Args:
        rows: X, (..., rows, columns), in the precision that products are to have.
        wanted: Y, (..., rows, outputs).
        anchor: W0, in float64, (..., columns, outputs).
        penalty: The ridge of each problem.
    """
    missing = with_float64(wanted - rows @ anchor.to(rows)).double()
    gram = with_float64(rows @ rows.mT).double()
    change = rows.mT @ _ridge_solution(gram, missing, penalty).to(rows)
    return anchor + change.to(anchor)


def _ridge_solution(gram: Tensor, wanted: Tensor, penalty: Tensor | float) -> Tensor:
    """``(G + lambda I)^-1 B`` or, where that cannot be computed, the smallest with ``G X = B``."""
    ridged = gram.clone()
    added = torch.as_tensor(penalty, dtype=gram.dtype, device=gram.device)
    ridged.diagonal(dim1=-2, dim2=-1).add_(added[..., None])
    factor, failed = torch.linalg.cholesky_ex(ridged)
    singular = _are_singular(factor, failed)
    solution = torch.cholesky_solve(wanted, factor)
    if singular.any():
        inverse = torch.linalg.pinv(gram[singular], hermitian=True, rtol=1e-12)
        solution[singular] = inverse @ wanted[singular]
    return solution


def _factored(gram: Tensor) -> Tensor | None:
    """The Cholesky factor; None where the matrix is singular but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    return None if _are_singular(factor, failed) else factor


def _are_singular(factor: Tensor, failed: Tensor) -> Tensor:
    """Which matrices are singular but for rounding, by their factors."""
    if not factor.shape[-1]:
        return failed != 0
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    # A failed factor may hold anything. Most singular matrices do not fail, as rounding leaves tiny
    # pivots above zero, and weights divided by these would be huge.
    return (failed != 0) | ~(pivots.amin(-1) > _SMALLEST_PIVOT * pivots.amax(-1))


def _positive(total: Tensor) -> Tensor:
    return total.clamp_min(torch.finfo(total.dtype).tiny)
