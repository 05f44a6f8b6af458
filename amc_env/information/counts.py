"""Plug-in entropies of symbols and of their counts, in bits and in float64."""

from math import log, log2

import torch
from torch import Tensor

# A table of more cells than this many for each symbol counted costs more than sorting.
_CELLS_PER_SYMBOL = 16


def entropy_of_counts(counts: Tensor) -> Tensor:
    r"""Shannon entropy of the last dimension of counts, in bits; 0 where all are 0.

    .. math:: H = -\sum_g p_g \log_2 p_g, \quad p_g = c_g / \sum_h c_h

    ``c`` is ``counts``, of any shape; 0 log 0 is 0.
    """
    share = counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)
    nats: Tensor = -torch.special.xlogy(share, share).sum(-1)
    return (nats / log(2.0)).clamp_min(0.0)


def entropy_of_symbols(symbols: Tensor, *, bins: int) -> Tensor:
    r"""Shannon entropy of each row of symbols 0 to ``bins - 1``, (rows,), in bits; NaN if empty.

    .. math:: H = \log_2 n - \frac{1}{n} \sum_i \log_2 c_{s_i}

    ``s`` is a row of ``symbols`` (rows, n), ``c_g`` how often ``g`` stands in it. Summing over the
    ``n`` symbols instead of over the table is the same number and skips the table's empty cells.
    """
    symbols = symbols.long()
    rows, length = symbols.shape
    if length == 0:
        return symbols.new_full((rows,), float("nan"), dtype=torch.float64)
    keys, cells = _keys(symbols, bins)
    counts = torch.bincount(keys.flatten(), minlength=rows * cells)
    if cells < length:
        return entropy_of_counts(counts.view(rows, cells))
    mean_log_count = counts.take(keys).double().log2_().mean(-1)
    return (log2(length) - mean_log_count).clamp_min(0.0)


def _keys(symbols: Tensor, bins: int) -> tuple[Tensor, int]:
    """A cell of its own for every symbol of every row, and the number of cells of a row."""
    rows, length = symbols.shape
    if bins <= _CELLS_PER_SYMBOL * length:
        return _apart(symbols, bins), bins
    # Most cells would be empty: number the different symbols of each row instead.
    ordered = symbols.sort(-1).values
    changes = (ordered[:, 1:] != ordered[:, :-1]).cumsum(-1)
    ranks = torch.cat([changes.new_zeros(rows, 1), changes], -1)
    return _apart(ranks, length), length


def _apart(symbols: Tensor, cells: int) -> Tensor:
    rows = len(symbols)
    if rows == 1:
        return symbols
    return symbols + torch.arange(0, rows * cells, cells, device=symbols.device)[:, None]
