"""The samples that a search reads, and the test samples that it must never read."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Samples with their classes, held in memory.

    Attributes:
        inputs: (samples, ...), as the network reads them.
        labels: (samples,), the class of each sample as a whole number from 0.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.dim() < 2 or self.inputs.numel() == 0 or not _is_real(self.inputs):
            raise ValueError(
                f"inputs have the shape {tuple(self.inputs.shape)} and type {self.inputs.dtype}; "
                "give floating point (samples, ...) with at least one sample"
            )
        if self.labels.shape != self.inputs.shape[:1] or _is_real(self.labels):
            raise ValueError(
                f"labels have the shape {tuple(self.labels.shape)} and type {self.labels.dtype}; "
                f"give one whole number for each of {len(self.inputs)} samples"
            )
        if int(self.labels.min()) < 0:
            raise ValueError(f"label {int(self.labels.min())} is negative; classes count from 0")
        bad = ~self.inputs.flatten(1).isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"sample {int(bad.nonzero()[0])} holds NaN or infinite values; leave it out"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Tensor) -> "Split":
        """Some of the samples."""
        return Split(inputs=self.inputs[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "Split":
        """The samples on a device; this split itself if they are on it already."""
        inputs, labels = self.inputs.to(device), self.labels.to(device)
        is_there = inputs is self.inputs and labels is self.labels
        return self if is_there else Split(inputs=inputs, labels=labels)

    @classmethod
    def of(
        cls, samples: "Split | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]"
    ) -> "Split":
        """A split from a pair of tensors (inputs, labels), or from a loader that yields such pairs.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(samples, Split):
            return samples
        batches = [samples] if _is_pair(samples) else list(samples)
        pairs = [batch for batch in batches if _is_pair(batch)]
        if not pairs or len(pairs) < len(batches):
            raise ValueError(
                "samples are neither a pair of tensors (inputs, labels) nor batches of such pairs"
            )
        return cls(
            inputs=torch.cat([inputs for inputs, _ in pairs]),
            labels=torch.cat([labels for _, labels in pairs]),
        )


Samples = Split | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningData:
    """The samples of a search: the calibration split and the validation split.

    Attributes:
        calibration: Samples that the criterion and the repair read.
        validation: Samples on which rewards are paid. They must come from training data.
        test: Samples of the final report. No reward and no choice reads them; they are only
            compared with the other splits, so that shared samples are refused.
    """

    calibration: Split
    validation: Split
    test: Split | None = None

    def __post_init__(self) -> None:
        shapes = {split.inputs.shape[1:] for split in self._splits()}
        if len(shapes) > 1:
            raise ValueError(
                f"samples have different shapes, {', '.join(str(tuple(s)) for s in shapes)}; "
                "give all in one"
            )
        if self.test is not None:
            tested = _digests(self.test)
            for name, split in (("calibration", self.calibration), ("validation", self.validation)):
                shared = len(tested & _digests(split))
                if shared:
                    raise ValueError(
                        f"{shared} of the {name} samples are test samples too, so that the test "
                        "accuracy would be of data that choices were made on; take them out"
                    )

    @classmethod
    def of_training(
        cls,
        train: Split,
        *,
        test: Split | None = None,
        calibration: int = 300,
        validation: int = 5000,
        seed: int = 0,
    ) -> "PruningData":
        """Both splits drawn from training data, stratified by class, without shared samples.

        If there are too few samples for both, calibration gets its number and validation the rest.

        Raises:
            ValueError: There are too few samples for both.
        """
        if calibration < 1 or validation < 1 or len(train) <= calibration:
            raise ValueError(
                f"{calibration} calibration and {validation} validation samples cannot be drawn "
                f"from {len(train)} training samples; give more, or ask for fewer"
            )
        order = stratified_order(train.labels, seed=seed)
        return cls(
            calibration=train.take(order[:calibration]),
            validation=train.take(order[calibration : calibration + validation]),
            test=test,
        )

    def to(self, device: torch.device | str) -> "PruningData":
        """Both splits on a device, without the test samples, which have been compared already."""
        calibration, validation = self.calibration.to(device), self.validation.to(device)
        if calibration is self.calibration and validation is self.validation:
            return self
        return PruningData(calibration=calibration, validation=validation)

    def _splits(self) -> list[Split]:
        return [s for s in (self.calibration, self.validation, self.test) if s is not None]


def stratified_order(labels: Tensor, *, seed: int) -> Tensor:
    """A random order of samples in which every part has the same shares of the classes."""
    labels = labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    places = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        # A class is spread evenly over the whole order, from a random start of its own.
        start = torch.rand((), generator=generator, dtype=torch.float64)
        places[members] = (torch.arange(len(members), dtype=torch.float64) + start) / len(members)
    return places.argsort(stable=True)


def _digests(split: Split) -> set[bytes]:
    rows = split.inputs.detach().cpu().float().flatten(1).contiguous().numpy()
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows}


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_pair(value: object) -> TypeGuard[tuple[Tensor, Tensor]]:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(item, Tensor) for item in value)
    )
