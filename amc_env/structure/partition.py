"""Sorts channel classes by the places where they lie."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def alike(vectors: Sequence[Tensor], among: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Labels that occur equally often in the same vectors, with the numbers of these vectors.

    The sets come in the order in which their first labels occur, and so do the labels in a set.

    Args:
        vectors: Vectors of labels.
        among: Mask over labels: which ones to sort.
    """
    if not vectors:
        return
    where = torch.cat(list(vectors))
    numbers = torch.repeat_interleave(torch.tensor([len(vector) for vector in vectors]))
    chosen = among[where]
    where, numbers = where[chosen], numbers[chosen]
    # Both packed into one integer, because to sort pairs takes many times as long.
    pairs, counts = (where * len(vectors) + numbers).unique(return_counts=True)
    owners, numbers = pairs // len(vectors), pairs % len(vectors)
    labels, lengths = owners.unique_consecutive(return_counts=True)
    starts = lengths.cumsum(0) - lengths
    signatures = _signatures(numbers * (len(where) + 1) + counts, starts, lengths)
    for members in _sets(signatures, _first_places(where, len(among))[labels]):
        start, length = int(starts[members[0]]), int(lengths[members[0]])
        yield numbers[start : start + length].tolist(), labels[members]


def _signatures(places: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """A number for each run of ``places``; runs with the same number are equal."""
    _, kinds = places.unique(return_inverse=True)
    signatures = torch.zeros(len(starts), dtype=torch.long)
    # Place by place, so that the work is that of sorting all places once, however long a run is.
    rest, used = torch.arange(len(starts)), 1
    for place in range(int(lengths.max()) if len(lengths) else 0):
        rest = rest[lengths[rest] > place]
        longer = signatures[rest] * len(places) + kinds[starts[rest] + place]
        different, inverse = longer.unique(return_inverse=True)
        signatures[rest] = used + inverse
        used += len(different)
    return signatures


def _first_places(where: Tensor, size: int) -> Tensor:
    """Where each label occurs for the first time."""
    places = torch.arange(len(where))
    return torch.full((size,), len(where)).scatter_reduce(0, where, places, "amin")


def _sets(signatures: Tensor, first: Tensor) -> list[Tensor]:
    """The numbers of the entries with equal signatures, all in the order of ``first``."""
    order = first.argsort()
    ranked = signatures[order]
    together = ranked.argsort(stable=True)
    _, sizes = ranked[together].unique_consecutive(return_counts=True)
    parts = together.split(sizes.tolist())
    return [order[part] for part in sorted(parts, key=lambda part: int(part[0]))]
