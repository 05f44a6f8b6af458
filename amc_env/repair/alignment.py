"""Finds the rows of a matrix again in a matrix from which some rows were taken out."""

import numpy as np
import torch
from torch import Tensor

# In squares: rows thirty times shorter than usual are as good as zero, whatever their direction.
_SILENT = 1e-3


def row_similarities(rows: Tensor, others: Tensor) -> Tensor:
    r"""How alike every row of one matrix is to every row of another: (rows, others), at most 1.

    .. math:: s(a, b) = \frac{2 \, a \cdot b}{|a|^2 + |b|^2}

    This is Dice's coefficient of two vectors ("Measures of the amount of ecologic association
    between species", 1945): 1 for equal rows, 0 for orthogonal ones. Unlike the cosine it also
    tells rows apart that differ in length alone, as the scalars of a batch norm do. A thousandth of
    the mean of ``|b|^2`` is added above and below, so that two rows next to nothing are equal.
    """
    rows, others = rows.float(), others.float()
    lengths, other_lengths = rows.square().sum(1), others.square().sum(1)
    tiny = torch.finfo(torch.float32).tiny
    silent = (_SILENT * other_lengths.mean()).clamp_min(tiny)
    return (2 * rows @ others.mT + silent) / (lengths[:, None] + other_lengths + silent)


def aligned(scores: Tensor) -> Tensor:
    """For every row a column of its own, ascending, so that the sum of their scores is largest.

    There must be at least as many columns as rows.
    """
    # The order is part of the problem: whoever cuts channels keeps those that are left in the order
    # that they had. It also settles ties, which an assignment without an order would shuffle.
    values = scores.double().cpu().numpy()
    columns = np.arange(values.shape[1])
    # The best sum of the rows so far, if they use none but the first 0, 1, 2, ... columns.
    best = np.zeros(len(columns) + 1)
    ends = np.empty(values.shape, dtype=np.int64)
    for row, own in enumerate(values):
        ending = best[:-1] + own
        best = np.concatenate([[-np.inf], np.maximum.accumulate(ending)])
        ends[row] = np.maximum.accumulate(np.where(ending >= best[1:], columns, 0))
    return torch.from_numpy(_traced_back(ends))


def _traced_back(ends: np.ndarray) -> np.ndarray:
    """Columns of all rows, from the best end of every row among the first columns."""
    chosen = np.empty(len(ends), dtype=np.int64)
    free = ends.shape[1]
    for row in reversed(range(len(ends))):
        free = chosen[row] = ends[row, free - 1]
    return chosen
