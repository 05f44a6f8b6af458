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
        # Longer than the ids that exist, and of each id beyond them the id itself, so that ids can
        # be added without a copy of all labels.
        self._labels = torch.arange(1)
        self._count = 1
        self._pending: list[Tensor] = []
        self._sizes: Tensor | None = None

    def fresh(self, count: int) -> Tensor:
        """``count`` ids that no channel had before."""
        self._count += count
        self._sizes = None
        return torch.arange(self._count - count, self._count)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Declare the ids at the same place of two broadcastable tensors to be one channel."""
        first, second = narrow_repeats(first, second)
        # Mostly the channels are known to be the same, which one comparison shows.
        if torch.equal(first, second):
            return
        differ = (first != second) & (first != NEUTRAL) & (second != NEUTRAL)
        if differ.any():
            # A pair packed into one integer: unique(dim=1) takes seconds on a million pairs.
            pairs = (first[differ] * self._count + second[differ]).unique()
            self._pending.append(torch.stack([pairs // self._count, pairs % self._count]))
            self._sizes = None

    def labels(self) -> Tensor:
        """The smallest id of every id's class, indexed by id; a view that further calls change."""
        if len(self._labels) < self._count:
            grown = torch.arange(2 * self._count)
            grown[: len(self._labels)] = self._labels
            self._labels = grown
        labels = self._labels[: self._count]
        if self._pending:
            _connect_(labels, torch.cat(self._pending, dim=1))
            self._pending = []
        return labels

    def sizes(self) -> Tensor:
        """The number of ids in every id's class, indexed by id."""
        # A large flatten makes millions of ids, whose counting is not to be done for each question.
        if self._sizes is None:
            labels = self.labels()
            self._sizes = labels.bincount()[labels]
        return self._sizes

    def canonical(self, ids: Tensor) -> Tensor:
        """``ids`` with each replaced by the smallest of its class; repeats stay repeats."""
        (narrow,) = narrow_repeats(ids)
        return self.labels()[narrow].expand(ids.shape)


def narrow_repeats(*ids: Tensor) -> list[Tensor]:
    """Views broadcast against each other, with each dimension cut to 1 along which none varies.

    An expanded dimension has stride 0, so a map of ids over a large image costs one pixel.
    """
    # torch.broadcast_shapes computes the same in Python, and slowly: this is called everywhere.
    views: list[Tensor] = list(ids)
    if any(v.shape != ids[0].shape for v in ids[1:]):
        views = list(torch.broadcast_tensors(*ids))
    shape = views[0].shape
    steps = [v.stride() for v in views]
    sizes = [
        1 if size > 1 and not any(own[dim] for own in steps) else size
        for dim, size in enumerate(shape)
    ]
    if sizes == list(shape):
        return views
    return [v.as_strided(sizes, own) for v, own in zip(views, steps, strict=True)]


def along(ids: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Spread a vector of ids over ``shape``, varying along ``dim`` only."""
    view = [1] * len(shape)
    view[dim] = -1
    return ids.view(view).expand(shape)


def _connect_(labels: Tensor, edges: Tensor) -> None:
    """Label every node with the smallest node that ``edges`` and ``labels`` connect it to."""
    # Every round hooks the larger label of each edge to the smaller and then shortens the chains
    # that this makes, so the rounds grow with the logarithm of a chain's length. A union-find in
    # a Python loop would take seconds for the millions of ids behind a large flatten.
    ends = labels[edges]
    # A label is no greater than the nodes that bear it, so none before the smallest one changes.
    # Channels mostly meet soon after they are made, at the end of all ids.
    last = labels[int(ends.min()) :]
    while not torch.equal(ends[0], ends[1]):
        low = torch.minimum(ends[0], ends[1])
        labels.scatter_reduce_(0, ends[0], low, "amin")
        labels.scatter_reduce_(0, ends[1], low, "amin")
        while not torch.equal(jumped := labels[last], last):
            last.copy_(jumped)
        ends = labels[edges]
