"""Channel identities: integers carried beside tensors, united where channels meet.

Every channel that a layer makes gets a fresh integer. Ids that meet in an addition, a
concatenated residual or a shared layer are united; the classes that result are the channels
that live and die together. Id 0 is neutral: a place that holds no channel, such as zero padding.
"""

import torch
from torch import Tensor

NEUTRAL = 0


class ChannelClasses:
    """Equivalence classes of channel ids, solved lazily and all at once."""

    def __init__(self) -> None:
        self._labels = torch.zeros(1, dtype=torch.long)
        self._pending: list[Tensor] = []

    def fresh(self, count: int) -> Tensor:
        """``count`` ids that no channel had before."""
        start = len(self._labels)
        ids = torch.arange(start, start + count)
        self._labels = torch.cat([self._labels, ids])
        return ids

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Declare the ids at the same place of two broadcastable tensors to be one channel."""
        first, second = narrow_repeats(first, second)
        differ = (first != second) & (first != NEUTRAL) & (second != NEUTRAL)
        if differ.any():
            self._pending.append(torch.stack([first[differ], second[differ]]).unique(dim=1))

    def labels(self) -> Tensor:
        """The smallest id of every id's class, indexed by id."""
        if self._pending:
            self._labels = _smallest_connected(self._labels, torch.cat(self._pending, dim=1))
            self._pending = []
        return self._labels

    def canonical(self, ids: Tensor) -> Tensor:
        """``ids`` with each replaced by the smallest of its class; repeats stay repeats."""
        (narrow,) = narrow_repeats(ids)
        return self.labels()[narrow].expand(ids.shape)


def narrow_repeats(*ids: Tensor) -> list[Tensor]:
    """Views broadcast against each other, with each dimension cut to 1 along which none varies.

    An expanded dimension has stride 0, so a map of ids over a large image costs one pixel.
    """
    shape = torch.broadcast_shapes(*(i.shape for i in ids))
    views = [i.expand(shape) for i in ids]
    for dim, size in enumerate(shape):
        if size > 1 and all(v.stride(dim) == 0 for v in views):
            views = [v.narrow(dim, 0, 1) for v in views]
    return views


def along(ids: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Spread a vector of ids over ``shape``, varying along ``dim`` only."""
    view = [1] * len(shape)
    view[dim] = -1
    return ids.view(view).expand(shape)


def _smallest_connected(labels: Tensor, edges: Tensor) -> Tensor:
    """Label every node with the smallest node that ``edges`` and ``labels`` connect it to."""
    labels = labels.clone()
    while True:
        ends = labels[edges]
        low = ends.amin(0)
        if torch.equal(ends[0], ends[1]):
            return labels
        labels.scatter_reduce_(0, ends[0], low, "amin")
        labels.scatter_reduce_(0, ends[1], low, "amin")
        while not torch.equal(jumped := labels[labels], labels):
            labels = jumped
