"""The samples that a search reads, and the test samples that it must never read."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """A checksum of each sample's inputs, which only equal samples share."""
        rows = self.inputs.detach().cpu().float().flatten(1).contiguous().numpy()
        return tuple(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)

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
    """The samples of a search: calibration, validation, selection and adjustment.

    Attributes:
        calibration: Samples that the criterion and the repair read.
        validation: Samples on which rewards are paid. They must come from training data.
        selection: Other training samples, on which the best policies of a search are compared. Each
            of many policies was judged on the validation split, so the greatest rewards are
            partly luck with its samples, which these do not share. If None, the validation split
            serves for both.
        adjustment: Samples on which the weights of the network that is kept are trained together,
            without labels; they may contain the calibration samples. If None, those serve.
        test: Samples of the final report. No reward and no choice reads them; they are only
            compared with the other splits, so that shared samples are refused.
    """

    calibration: Split
    validation: Split
    selection: Split | None = None
    adjustment: Split | None = None
    test: Split | None = None

    def __post_init__(self) -> None:
        splits = self._splits()
        given = [split for split in (*splits.values(), self.test) if split is not None]
        shapes = {split.inputs.shape[1:] for split in given}
        if len(shapes) > 1:
            raise ValueError(
                f"samples have different shapes, {', '.join(str(tuple(s)) for s in shapes)}; "
                "give all in one"
            )
        for name, split in splits.items():
            if shared := _shared(self.test, split):
                raise ValueError(
                    f"{shared} of the {name} samples are test samples too, so that the test "
                    "accuracy would be of data that choices were made on; take them out"
                )
        for name in splits.keys() - {"selection"}:
            if shared := _shared(self.selection, splits[name]):
                raise ValueError(
                    f"{shared} of the {name} samples are selection samples too, so that networks "
                    "would be compared on data that they were found with; take them out"
                )

    @classmethod
    def of_training(  # noqa: PLR0913 (every split has a size, and all have defaults)
        cls,
        train: Split,
        *,
        test: Split | None = None,
        calibration: int = 300,
        validation: int = 5000,
        selection: int = 1000,
        adjustment: int = 0,
        seed: int = 0,
    ) -> "PruningData":
        """The splits drawn from training data, stratified by class.

        See :func:`draw` for how many samples each split gets where there are too few. Copies of
        samples of the other splits are left out of the selection split.

        Raises:
            ValueError: There are too few samples.
        """
        drawn = draw(
            train.labels,
            calibration=calibration,
            validation=validation,
            selection=selection,
            adjustment=adjustment,
            seed=seed,
        )
        splits = {name: train.take(indices) for name, indices in drawn.items() if len(indices)}
        if "selection" in splits:
            others = [split for name, split in splits.items() if name != "selection"]
            splits["selection"] = _without(
                splits["selection"], {d for o in others for d in o.digests}
            )
        return cls(**splits, test=test)

    @property
    def judging(self) -> Split:
        """The samples on which the best policies are compared: selection, or else validation."""
        return self.validation if self.selection is None else self.selection

    @property
    def adjusting(self) -> Split:
        """The samples that the network that is kept is adjusted on: adjustment, or calibration."""
        return self.calibration if self.adjustment is None else self.adjustment

    def to(self, device: torch.device | str) -> "PruningData":
        """The splits on a device, without the test samples, which have been compared already."""
        own = self._splits()
        moved = {name: split.to(device) for name, split in own.items()}
        return self if moved == own else PruningData(**moved)

    def _splits(self) -> dict[str, Split]:
        named = {
            "calibration": self.calibration,
            "validation": self.validation,
            "selection": self.selection,
            "adjustment": self.adjustment,
        }
        return {name: split for name, split in named.items() if split is not None}


def draw(
    labels: Tensor,
    *,
    calibration: int,
    validation: int,
    selection: int,
    adjustment: int = 0,
    seed: int,
) -> Mapping[str, Tensor]:
    """Which training samples each split gets: their indices, by the name of the split.

    If there are too few samples, calibration gets its number, selection at most a third of the
    others, and validation the rest. The samples for adjustment are those for calibration, then
    others that no split has, if there are any; it has none if calibration has as many as it is to
    have. Every split has nearly the same shares of the classes.

    Raises:
        ValueError: A number is too small, or calibration leaves no sample.
    """
    too_small = calibration < 1 or validation < 1 or selection < 0 or adjustment < 0
    if too_small or len(labels) <= calibration:
        raise ValueError(
            f"{calibration} calibration, {validation} validation, {selection} selection and "
            f"{adjustment} adjustment samples cannot be drawn from {len(labels)} training samples; "
            "give more, or ask for fewer"
        )
    others = len(labels) - calibration
    selection = min(selection, others // 3)
    validation = min(validation, others - selection)
    sizes = {"calibration": calibration, "validation": validation, "selection": selection}
    order = stratified_order(labels, seed=seed)
    *parts, rest = order.split([*sizes.values(), len(order) - sum(sizes.values())])
    drawn = dict(zip(sizes, parts, strict=True))
    more = rest[: max(0, adjustment - calibration)]
    return drawn | {"adjustment": torch.cat([drawn["calibration"], more]) if len(more) else more}


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


def _shared(first: Split | None, second: Split) -> int:
    """How many different samples are in both splits."""
    return len({*first.digests} & {*second.digests}) if first is not None else 0


def _without(split: Split, digests: set[bytes]) -> Split:
    """The samples of a split whose checksums are not among these."""
    own = [index for index, digest in enumerate(split.digests) if digest not in digests]
    if not own:
        raise ValueError(
            f"each of the {len(split)} samples drawn for selection is a copy of a calibration or "
            "validation sample; give training data without copies, or ask for no selection samples"
        )
    return split.take(torch.tensor(own)) if len(own) < len(split) else split


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_pair(value: object) -> TypeGuard[tuple[Tensor, Tensor]]:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(item, Tensor) for item in value)
    )
