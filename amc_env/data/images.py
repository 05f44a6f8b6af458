"""Images in memory as bytes, which take a quarter of the memory of the numbers networks read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch, ReadBatches
from amc_env.data.sources import Source, digests_of
from amc_env.data.splits import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Images(Source):
    """Images with their classes, normalised whenever they are read.

    Attributes:
        pixels: Bytes, (samples, channels, height, width).
        mean: Of each channel's values, which go from 0 to 1.
        deviation: Of the same.
        labels: The class of each image, (samples,); None where it is not known.
    """

    pixels: Tensor
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4 or not self.pixels.numel():
            raise ValueError(
                f"images are {self.pixels.dtype} {tuple(self.pixels.shape)}; give bytes (samples, "
                "channels, height, width), at least one image"
            )
        if self.labels is not None and self.labels.shape != (len(self),):
            raise ValueError(
                f"labels have the shape {tuple(self.labels.shape)}; give one for each of "
                f"{len(self)} images"
            )
        if not len(self.mean) == len(self.deviation) == self.pixels.shape[1]:
            raise ValueError(
                f"images have {self.pixels.shape[1]} channels, but mean is {self.mean} and "
                f"deviation {self.deviation}; give a number for each channel"
            )

    @override
    def __len__(self) -> int:
        return len(self.pixels)

    @property
    @override
    def device(self) -> torch.device:
        return self.pixels.device

    @cached_property
    @override
    def digests(self) -> tuple[bytes, ...]:
        # Of what networks read, as those of a split, so that copies are found in either.
        return tuple(chain.from_iterable(map(digests_of, self.parts(1000))))

    @override
    def take(self, index: Tensor | slice) -> "Images":
        chosen = index.to(self.device) if isinstance(index, Tensor) else index
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, pixels=self.pixels[chosen], labels=labels)

    @override
    def to(self, device: torch.device | str) -> "Images":
        if torch.device(device) == self.device:
            return self
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels)

    @override
    def first(self, samples: int) -> Tensor:
        return self._read(slice(samples))

    @override
    def parts(self, size: int) -> Sequence[Batch]:
        starts = range(0, len(self), size)

        def read(numbers: Sequence[int]) -> Iterator[Batch]:
            return (self._read(slice(starts[n], starts[n] + size)) for n in numbers)

        return ReadBatches([min(size, len(self) - start) for start in starts], read)

    @override
    def batches(
        self, chosen: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        for index in chosen:
            there = index.to(self.device)
            yield self._read(there), None if self.labels is None else self.labels[there]

    @override
    def resident(self) -> Split:
        return self._resident

    @override
    def identity(self) -> Mapping[str, Tensor]:
        labels = {} if self.labels is None else {"labels": self.labels}
        scale = torch.tensor([self.mean, self.deviation])
        return {"pixels": self.pixels, "scale": scale, **labels}

    @cached_property
    def _resident(self) -> Split:
        """The numbers that networks read, which are then held too."""
        return Split(inputs=self._read(slice(None)), labels=self.labels)

    def _read(self, index: Tensor | slice) -> Tensor:
        mean, deviation = (
            torch.tensor(values).view(-1, 1, 1).to(self.device)
            for values in (self.mean, self.deviation)
        )
        return (self.pixels[index].float() / 255 - mean) / deviation
