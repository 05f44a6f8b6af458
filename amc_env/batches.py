"""Batches of samples: one tensor, or tuples, lists and mappings of tensors, nested in any way.

The first dimension of every tensor counts the samples. A network is called with a tensor as it is,
with the parts of a tuple or list one by one, and with those of a mapping by their names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn
from typing_extensions import override

Batch: TypeAlias = Tensor | Sequence["Batch"] | Mapping[str, "Batch"]
B = TypeVar("B", bound=Batch)


def call(model: nn.Module, batch: Batch) -> object:
    """What a network returns for a batch."""
    positional, named = arguments(batch)
    return model(*positional, **named)


def arguments(batch: Batch) -> tuple[tuple[Batch, ...], dict[str, Batch]]:
    """The positional and the named arguments that a network is called with."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return tuple(batch), {}


def is_batch(value: object) -> bool:
    """Whether a value consists of tensors alone, at least one."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Mapping):
        return bool(value) and all(
            isinstance(k, str) and is_batch(part) for k, part in value.items()
        )
    return isinstance(value, tuple | list) and bool(value) and all(map(is_batch, value))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings, or among a record's fields."""
    # The most frequent first: to ask whether a number is a mapping takes longer than all the rest.
    if value is None or isinstance(value, (int, float, str)):
        return
    if isinstance(value, Tensor):
        yield value
        return
    for part in _parts(value):
        # As above, without another generator for what is mostly found here.
        if isinstance(part, Tensor):
            yield part
        elif part is not None and not isinstance(part, (int, float, str)):
            yield from tensors_in(part)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, Mapping):
        return value.values()
    return [getattr(value, name) for name in getattr(value, "__dataclass_fields__", ())]


def first_tensor(batch: Batch) -> Tensor:
    """The first tensor of a batch, which stands for all in what they share."""
    return next(tensors_in(batch))


def count(batch: Batch) -> int:
    """The number of samples."""
    return len(first_tensor(batch))


def mapped(function: Callable[[Tensor], Tensor], batch: B) -> B:
    """The batch with ``function`` of every tensor in its place."""
    changed: Any
    if isinstance(batch, Tensor):
        changed = function(batch)
    elif isinstance(batch, Mapping):
        changed = {name: mapped(function, part) for name, part in batch.items()}
    else:
        parts = [mapped(function, part) for part in batch]
        changed = parts if isinstance(batch, list) else tuple(parts)
    return changed  # type: ignore[no-any-return]


def taken(batch: B, index: Tensor | slice) -> B:
    """Some of the samples."""
    return mapped(lambda x: x[index], batch)


def first(batch: B, samples: int) -> B:
    """The first samples; all where there are fewer."""
    return taken(batch, slice(samples))


def in_parts(batch: B, size: int) -> list[B]:
    """The samples in order, so many at a time; the last part may have fewer."""
    return [taken(batch, slice(at, at + size)) for at in range(0, count(batch), size)]


def joined(batches: Sequence[B]) -> B:
    """The samples of several batches of one structure, one batch after the other."""
    whole: Any
    head = batches[0]
    if isinstance(head, Tensor):
        whole = torch.cat([first_tensor(batch) for batch in batches])
    elif isinstance(head, Mapping):
        whole = {name: joined([batch[name] for batch in batches]) for name in head}  # type: ignore[call-overload, index]
    else:
        whole = tuple(joined(list(parts)) for parts in zip(*batches, strict=True))
    return whole  # type: ignore[no-any-return]


def moved(batch: B, device: torch.device | str) -> B:
    """The batch on a device; the batch itself if it is there already."""
    there = mapped(lambda x: x.to(device), batch)
    pairs = zip(tensors_in(there), tensors_in(batch), strict=True)
    return batch if all(new is old for new, old in pairs) else there


def by_name(batch: Batch, prefix: str) -> dict[str, Tensor]:
    """The tensors of a batch under different names, which begin with ``prefix``."""
    if isinstance(batch, Tensor):
        return {prefix: batch}
    parts = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {
        name: tensor
        for key, part in parts
        for name, tensor in by_name(part, f"{prefix}.{key}").items()
    }


class ReadBatches(Sequence[Batch]):
    """Batches that are read whenever they are asked for, and held by whoever asks alone.

    Args:
        sizes: The number of samples of every batch.
        read: Yields the batches of these numbers, one after the other.
    """

    def __init__(
        self, sizes: Sequence[int], read: Callable[[Sequence[int]], Iterator[Batch]]
    ) -> None:
        self.sizes = list(sizes)
        self._read = read

    @override
    def __len__(self) -> int:
        return len(self.sizes)

    @override
    def __iter__(self) -> Iterator[Batch]:
        return self._read(range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> "ReadBatches": ...

    @override
    def __getitem__(self, index: int | slice) -> "Batch | ReadBatches":
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return next(self._read([numbers]))
        read, sizes = self._read, [self.sizes[number] for number in numbers]
        return ReadBatches(sizes, lambda chosen: read([numbers[each] for each in chosen]))


def sizes(batches: Sequence[Batch]) -> list[int]:
    """The number of samples of every batch, for which none is read."""
    if isinstance(batches, ReadBatches):
        return batches.sizes
    return [count(batch) for batch in batches]
