"""Samples that are read from a data set whenever they are needed, and not held in memory.

What is read depends on the sample and a seed alone: neither on the number of worker processes nor
on what was read before. Every sample is read with PyTorch's, Python's and NumPy's global random
numbers at a state of its own, which are put back afterwards.
"""

import copy
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data import Dataset as TorchDataset
from typing_extensions import override

from amc_env.batches import (
    Batch,
    ReadBatches,
    by_name,
    count,
    mapped,
    moved,
    taken,
    tensors_in,
)
from amc_env.data.sources import Source, check_inputs, check_labels, digests_of, pair_of
from amc_env.data.splits import Split

MIB = 2**20
# More processes than this rarely read any faster.
_MOST_WORKERS = 8


@runtime_checkable
class Known(Protocol):
    """A data set that can tell its samples apart without decoding them."""

    def digest(self, index: int) -> bytes:
        """A checksum of a sample, which only equal samples share."""

    def identity(self) -> bytes:
        """A checksum that tells this data set from others."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read.

    Attributes:
        workers: Processes that read batches ahead, each two of them; 0 to read in the process
            itself, None for one for each core, at most 8.
        hold_mib: Splits that networks are evaluated on are held in memory where they take at most
            so many MiB, and read again for every evaluation otherwise.
        collate: Makes a batch of a list of samples.
    """

    workers: int | None = 0
    hold_mib: int = 2048
    collate: Callable[[list[Any]], Any] = default_collate

    def __post_init__(self) -> None:
        for name in ("workers", "hold_mib"):
            number = getattr(self, name)
            if number is not None and number < 0:
                raise ValueError(f"{name} is {number}; give 0 or more")


class Stream(Source):
    """Samples of a map-style data set, read whenever they are needed.

    Args:
        dataset: A ``torch.utils.data.Dataset`` with a length, of samples (inputs, label) or of
            inputs alone; inputs are a tensor, or a tuple or mapping of tensors, all of one shape.
        labels: The labels of all samples, where they are known without reading; by default the
            data set's own ``targets``. Where there are none, they are read once.
        training: The same samples in the same order as a training is to read them, with random
            crops for example; ``dataset`` if None.
        reading: How samples are read.

    Raises:
        ValueError: The data set has no length or no sample, or the labels are of other samples.
    """

    def __init__(
        self,
        dataset: "TorchDataset[Any]",
        *,
        labels: Batch | None = None,
        training: "TorchDataset[Any] | None" = None,
        reading: Reading | None = None,
    ) -> None:
        self._dataset, self._training = dataset, dataset if training is None else training
        self._reading = reading or Reading()
        self._index = torch.arange(_length(dataset))
        self._device = torch.device("cpu")
        self._given = labels if labels is not None else _targets(dataset)
        check_labels(self._given, samples=len(self))
        if _length(self._training) != len(self):
            raise ValueError(
                f"{_length(self._training)} samples are for training, but there are {len(self)}; "
                "give the same samples in the same order"
            )

    @classmethod
    def of(cls, loader: "DataLoader[Any]", *, hold_mib: int = Reading.hold_mib) -> "Stream":
        """The samples of a loader, read by as many workers.

        The order is that of its data set: which samples come together is for the search to decide.

        Args:
            loader: A loader of a data set that has a length.
            hold_mib: As in ``Reading``.

        Raises:
            ValueError: The data set has no length or no sample.
        """
        collate: Callable[[list[Any]], Any] = loader.collate_fn
        reading = Reading(workers=loader.num_workers, hold_mib=hold_mib, collate=collate)
        return cls(loader.dataset, reading=reading)

    @override
    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    @override
    def labels(self) -> Batch | None:
        if self._given is not None:
            return moved(taken(self._given, self._index), self.device)
        if self._example[1] is None:
            return None
        read = (labels for _, labels in self._pairs(self._in_order(64)))
        return _together(len(self), (labels for labels in read if labels is not None))

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @cached_property
    @override
    def digests(self) -> tuple[bytes, ...]:
        if isinstance(self._dataset, Known):
            return tuple(self._dataset.digest(index) for index in self._index.tolist())
        return tuple(chain.from_iterable(digests_of(x) for x in self.parts(64)))

    @override
    def take(self, index: Tensor | slice) -> "Stream":
        chosen = index.cpu() if isinstance(index, Tensor) else index
        return self._with(_index=self._index[chosen])

    @override
    def to(self, device: torch.device | str) -> "Stream":
        there = torch.device(device)
        if there == self.device:
            return self
        # They do not depend on the device, and may have taken a while.
        known = {"digests": self.digests} if "digests" in vars(self) else {}
        return self._with(_device=there, **known)

    @override
    def first(self, samples: int) -> Batch:
        if samples <= 1:
            return taken(self._example[0], slice(samples))
        return next(self._pairs([self._index[:samples]]))[0]

    @override
    def parts(self, size: int) -> Sequence[Batch]:
        chunks = self._in_order(size)

        def read(numbers: Sequence[int]) -> Iterator[Batch]:
            return (inputs for inputs, _ in self._pairs([chunks[number] for number in numbers]))

        return ReadBatches([len(chunk) for chunk in chunks], read)

    @override
    def batches(
        self, chosen: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Batch, Batch | None]]:
        seed = int(torch.randint(2**31, (), generator=generator))
        chunks = [self._index[index.cpu()] for index in chosen]
        read = self._pairs(chunks, self._training, seed=seed)
        known = None if self._given is None else self.labels
        for index, (inputs, labels) in zip(chosen, read, strict=True):
            own = labels if known is None else taken(known, index.to(self.device))
            yield inputs, own

    @override
    def resident(self) -> Source:
        return self if self._resident is None else self._resident

    @override
    def identity(self) -> Mapping[str, Tensor]:
        labels = {} if self.labels is None else by_name(self.labels, "labels")
        if not isinstance(self._dataset, Known):
            return {"samples": self._index, **by_name(self._example[0], "inputs"), **labels}
        own = torch.frombuffer(bytearray(self._dataset.identity()), dtype=torch.uint8)
        return {"samples": self._index, "dataset": own, **labels}

    def held(self) -> Split:
        """The samples in memory, however many there are."""
        inputs = _together(len(self), self.parts(64))
        return Split(inputs=inputs, labels=self.labels)

    @cached_property
    def _example(self) -> tuple[Batch, Batch | None]:
        """The first sample, which stands for all in shape and type."""
        return next(self._pairs([self._index[:1]]))

    @cached_property
    def _resident(self) -> Split | None:
        each = sum(x.numel() * x.element_size() for x in tensors_in(self._example[0]))
        return self.held() if each * len(self) <= self._reading.hold_mib * MIB else None

    def _with(self, **changed: Any) -> "Stream":
        """Another stream of the same data set."""
        other = copy.copy(self)
        for name in ("labels", "digests", "_example", "_resident"):
            vars(other).pop(name, None)
        vars(other).update(changed)
        if not len(other):
            raise ValueError("no sample is left; take at least one")
        return other

    def _in_order(self, size: int) -> Sequence[Tensor]:
        chunks: Sequence[Tensor] = self._index.split(size)
        return chunks

    def _pairs(
        self,
        chunks: Sequence[Tensor],
        dataset: "TorchDataset[Any] | None" = None,
        *,
        seed: int = 0,
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """The inputs and labels of the samples with these indices in the data set."""
        reading = self._reading
        workers = _cores() if reading.workers is None else reading.workers
        loader = DataLoader(
            _Seeded(self._dataset if dataset is None else dataset, seed),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            # A process takes longer to start than a single batch to read.
            num_workers=workers if len(chunks) > 1 else 0,
            collate_fn=_Collate(reading.collate),
            # Otherwise the loader would draw from the global random numbers.
            generator=torch.Generator().manual_seed(0),
        )
        for read in loader:
            if isinstance(read, _Refusal):
                raise ValueError(read.sentence)
            inputs, labels = _checked(read)
            yield (
                moved(inputs, self.device),
                None if labels is None else moved(labels, self.device),
            )


@dataclass(frozen=True)
class _Refusal:
    """Why a sample cannot be read: an error would come out of a worker with its whole traceback."""

    sentence: str


class _Seeded(TorchDataset[Any]):
    """Samples that are read with random numbers of their own."""

    def __init__(self, dataset: "TorchDataset[Any]", seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    @override
    def __getitem__(self, index: int) -> Any:
        with _random_numbers_of(zlib.crc32(f"{self._seed} {index}".encode())):
            try:
                return self._dataset[index]
            except ValueError as error:
                return _Refusal(str(error))


class _Collate:
    """Makes a batch of samples, unless one of them is refused."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        refused = next((one for one in samples if isinstance(one, _Refusal)), None)
        if refused is not None:
            return refused
        try:
            return self._collate(samples)
        except (RuntimeError, TypeError) as error:
            return _Refusal(
                f"samples cannot be put together in a batch ({str(error).partition(chr(10))[0]}); "
                "give tensors of one shape"
            )


@contextmanager
def _random_numbers_of(seed: int) -> Iterator[None]:
    """Draw from global generators at a state of their own, and put them back afterwards."""
    # Only the generator of the CPU: a worker must not touch a device.
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002


def _checked(read: Any) -> tuple[Batch, Batch | None]:
    # A data set of inputs alone may give each as a tuple of one.
    is_one = isinstance(read, list | tuple) and len(read) == 1
    pair = pair_of(read[0] if is_one else read)
    if pair is None:
        raise ValueError(
            f"the data set gives batches of the type {type(read).__name__}; give samples (inputs, "
            "label), inputs alone, or mappings of inputs"
        )
    check_inputs(pair[0])
    return pair


def _together(samples: int, parts: Iterator[Batch] | Sequence[Batch]) -> Batch:
    """The samples of all parts, which are not held beside them."""
    whole: Batch | None = None
    at = 0
    for part in parts:
        if whole is None:
            whole = mapped(lambda x: _room(samples, x), part)
        for own, given in zip(tensors_in(whole), tensors_in(part), strict=True):
            own[at : at + len(given)] = given
        at += count(part)
    if whole is None:
        raise ValueError("there is no sample to read")
    return whole


def _room(samples: int, like: Tensor) -> Tensor:
    """An empty tensor for so many samples; images in the layout that networks mostly run in."""
    # In another layout the evaluator would make, and hold, a second copy. Images that are in both
    # layouts at once, such as grey ones, are not copied.
    is_both = like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    is_last = like.dim() == 4 and not is_both
    layout = torch.channels_last if is_last else torch.contiguous_format
    size = (samples, *like.shape[1:])
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)


def _length(dataset: "TorchDataset[Any]") -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{type(dataset).__name__} has no length or no index; give a map-style data set, whose "
            "samples can be read in any order"
        )
    length = len(dataset)
    if not length:
        raise ValueError(f"{type(dataset).__name__} has no sample; give at least one")
    return length


def _targets(dataset: "TorchDataset[Any]") -> Tensor | None:
    """The classes of a data set that knows them without reading, as torchvision's do."""
    if isinstance(dataset, torch.utils.data.Subset):
        whole = _targets(dataset.dataset)
        return None if whole is None else whole[list(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    # Where labels are changed on the way out, only those that come out count.
    is_changed = getattr(dataset, "target_transform", None) is not None
    return None if targets is None or is_changed else torch.as_tensor(targets)


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_WORKERS, usable or 1)
