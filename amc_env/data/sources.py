"""What all samples have in common, whether memory holds them or they are read when needed."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from amc_env.batches import Batch, is_batch, tensors_in


class Source(ABC):
    """Samples with their labels; ``Split`` holds them in memory, ``Stream`` reads them."""

    @property
    @abstractmethod
    def labels(self) -> Batch | None:
        """What is to be predicted for each sample, (samples, ...), as the task reads it.

        Of a classification the class, a whole number from 0. None where it is not known; scores and
        repair need no labels, but for some criteria.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the samples are, or where they are put once they are read."""

    @property
    @abstractmethod
    def digests(self) -> tuple[bytes, ...]:
        """A checksum of each sample, which only equal samples share."""

    @abstractmethod
    def take(self, index: Tensor | slice) -> Self:
        """Some of the samples."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The samples on a device; these themselves if they are on it already."""

    @abstractmethod
    def first(self, samples: int) -> Batch:
        """The inputs of the first samples; of all where there are fewer."""

    @abstractmethod
    def parts(self, size: int) -> Sequence[Batch]:
        """The inputs in order, so many samples at a time; the last part may have fewer."""

    @abstractmethod
    def batches(
        self, chosen: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """For a training, the inputs and labels of the samples with each of these indices.

        Args:
            chosen: The indices of every batch.
            generator: Draws what the samples themselves leave to chance.
        """

    @abstractmethod
    def resident(self) -> "Source":
        """The samples in memory where they fit into their bound; else these themselves."""

    @abstractmethod
    def identity(self) -> Mapping[str, Tensor]:
        """Tensors that tell these samples from others, as far as no stream is read for it."""

    def content(self) -> Mapping[str, Tensor]:
        """Tensors that only the same samples share; all samples of a stream are read for it."""
        every = torch.frombuffer(bytearray(b"".join(self.digests)), dtype=torch.uint8)
        return {**self.identity(), "digests": every}

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of one sample's inputs."""
        return tuple(tuple(x.shape[1:]) for x in tensors_in(self.first(1)))

    @property
    def strata(self) -> Tensor:
        """The class of each sample, (samples,), where labels are classes; 0 for all elsewhere."""
        labels = self.labels
        if isinstance(labels, Tensor) and labels.dim() == 1 and not _is_real(labels):
            return labels
        return torch.zeros(len(self), dtype=torch.long, device=self.device)

    def with_greatest_label(self) -> Self:
        """The sample with the greatest label, or the first where labels are no single tensor."""
        labels, at = self.labels, 0
        if isinstance(labels, Tensor):
            at = int(labels.reshape(len(labels), -1).amax(1).argmax())
        return self.take(slice(at, at + 1))


def digests_of(inputs: Batch) -> tuple[bytes, ...]:
    """A checksum of each sample's inputs."""
    each = [x.detach().cpu().float() for x in tensors_in(inputs)]
    rows = [x.reshape(len(x), -1).contiguous().numpy() for x in each]
    return tuple(
        hashlib.blake2b(b"".join(row.tobytes() for row in own), digest_size=16).digest()
        for own in zip(*rows, strict=True)
    )


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def check_inputs(inputs: object) -> None:
    """Refuse inputs that are no samples, or hold values that are no numbers.

    Raises:
        ValueError: They are or do.
    """
    if not is_batch(inputs):
        raise ValueError(
            f"inputs are a {type(inputs).__name__}; give a tensor (samples, ...), or a tuple or "
            "mapping of such tensors"
        )
    each = list(tensors_in(inputs))
    # A further input may be a number for each sample, or whole numbers.
    for x in each:
        is_alone = len(each) == 1 and (x.dim() < 2 or not _is_real(x))
        if is_alone or x.dim() == 0 or x.numel() == 0:
            raise ValueError(
                f"inputs have the shape {tuple(x.shape)} and type {x.dtype}; "
                "give floating point (samples, ...) with at least one sample"
            )
    if len({len(x) for x in each}) > 1:
        raise ValueError(
            f"inputs are of {' and '.join(str(len(x)) for x in each)} samples; give all for the "
            "same samples"
        )
    for x in each:
        bad = ~x.flatten(1).isfinite().all(1) if x.dim() > 1 else ~x.isfinite()
        if bad.any():
            raise ValueError(
                f"sample {int(bad.nonzero()[0])} holds NaN or infinite values; leave it out"
            )


def check_labels(labels: Batch | None, *, samples: int) -> None:
    """Refuse labels that are not one for each sample.

    Raises:
        ValueError: They are not.
    """
    for own in tensors_in(labels):
        if own.dim() == 0 or len(own) != samples:
            raise ValueError(
                f"labels have the shape {tuple(own.shape)}; give one for each of {samples} samples"
            )


def pair_of(value: object) -> tuple[Batch, Batch | None] | None:
    """The inputs and labels of a batch of samples; None if it is none."""
    if isinstance(value, Tensor):
        return value, None
    if isinstance(value, Mapping) and is_batch(value):
        inputs = {name: part for name, part in value.items() if name != "labels"}
        return inputs, value.get("labels")
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(is_batch, value)):
        inputs, labels = value
        # Two batches of a loader, each a pair or a mapping of the same names, are no pair.
        is_second = isinstance(labels, Mapping) and isinstance(inputs, Mapping)
        if isinstance(labels, tuple | list) or (is_second and labels.keys() == inputs.keys()):
            return None
        return inputs, labels
    return None
