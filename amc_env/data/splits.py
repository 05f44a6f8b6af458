"""The samples that a search reads, and the test samples that it must never read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.batches import (
    Batch,
    by_name,
    count,
    first,
    first_tensor,
    in_parts,
    joined,
    moved,
    taken,
)
from amc_env.data.sources import Source, check_inputs, check_labels, digests_of, pair_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Split(Source):
    """Samples with their labels, held in memory.

    Attributes:
        inputs: (samples, ...), as the network reads them; tuples or mappings of such tensors for a
            network that takes several.
        labels: What is to be predicted for each sample, (samples, ...), as the task reads it: of a
            classification the class, a whole number from 0. None where it is not known; scores and
            repair need no labels, but for some criteria.
    """

    inputs: Batch
    labels: Batch | None = None

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        check_labels(self.labels, samples=len(self))

    @override
    def __len__(self) -> int:
        return count(self.inputs)

    @property
    @override
    def device(self) -> torch.device:
        return first_tensor(self.inputs).device

    @cached_property
    @override
    def digests(self) -> tuple[bytes, ...]:
        return digests_of(self.inputs)

    @override
    def take(self, index: Tensor | slice) -> "Split":
        labels = None if self.labels is None else taken(self.labels, index)
        return Split(inputs=taken(self.inputs, index), labels=labels)

    @override
    def to(self, device: torch.device | str) -> "Split":
        inputs = moved(self.inputs, device)
        labels = None if self.labels is None else moved(self.labels, device)
        is_there = inputs is self.inputs and labels is self.labels
        return self if is_there else Split(inputs=inputs, labels=labels)

    @override
    def first(self, samples: int) -> Batch:
        return first(self.inputs, samples)

    @override
    def parts(self, size: int) -> Sequence[Batch]:
        return in_parts(self.inputs, size)

    @override
    def batches(
        self, chosen: Sequence[Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Batch, Batch | None]]:
        for index in chosen:
            there = index.to(self.device)
            labels = None if self.labels is None else taken(self.labels, there)
            yield taken(self.inputs, there), labels

    @override
    def resident(self) -> "Split":
        return self

    @override
    def identity(self) -> Mapping[str, Tensor]:
        labels = {} if self.labels is None else by_name(self.labels, "labels")
        return {**by_name(self.inputs, "inputs"), **labels}

    @classmethod
    def of(cls, samples: "Samples") -> "Split":
        """A split from samples in memory, or from a loader that yields batches of them.

        Samples are a pair (inputs, labels), the inputs alone, or a mapping of inputs by name that
        may hold the labels as ``labels``. Labels are a tensor or a mapping. A loader that yields
        several inputs without labels has to yield mappings, as two tensors are taken for inputs and
        labels.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(samples, Split):
            return samples
        if isinstance(samples, Source):
            raise ValueError(
                f"samples are a {type(samples).__name__}, which is no split in memory; give what "
                "its held() returns"
            )
        alone = pair_of(samples)
        pairs = [alone] if alone else [pair_of(batch) for batch in samples]
        known = [pair for pair in pairs if pair]
        labels = [labels for _, labels in known if labels is not None]
        if not known or len(known) < len(pairs) or len(labels) not in (0, len(pairs)):
            raise ValueError(
                "samples are neither a pair of tensors (inputs, labels) nor batches of such pairs"
            )
        return cls(
            inputs=joined([inputs for inputs, _ in known]),
            labels=joined(labels) if labels else None,
        )


def as_source(samples: "Samples") -> Source:
    """The samples of a search: a split or a stream as it is, others as ``Split.of`` takes them.

    Raises:
        ValueError: They are nothing of this.
    """
    return samples if isinstance(samples, Source) else Split.of(samples)


Samples = Source | Batch | tuple[Batch, Batch] | Iterable[Any]


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

    calibration: Source
    validation: Source
    selection: Source | None = None
    adjustment: Source | None = None
    test: Source | None = None

    def __post_init__(self) -> None:
        splits = self._splits()
        given = [split for split in (*splits.values(), self.test) if split is not None]
        shapes = {split.shapes for split in given}
        if len(shapes) > 1:
            told = (" and ".join(map(str, each)) for each in shapes)
            raise ValueError(f"samples have different shapes, {', '.join(told)}; give all in one")
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
        train: Source,
        *,
        test: Source | None = None,
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
            train.strata,
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
    def judging(self) -> Source:
        """The samples on which the best policies are compared: selection, or else validation."""
        return self.validation if self.selection is None else self.selection

    @property
    def adjusting(self) -> Source:
        """The samples that the network that is kept is adjusted on: adjustment, or calibration."""
        return self.calibration if self.adjustment is None else self.adjustment

    def to(self, device: torch.device | str) -> "PruningData":
        """The splits on a device, without the test samples, which have been compared already."""
        own = self._splits()
        moved = {name: split.to(device) for name, split in own.items()}
        return self if moved == own else PruningData(**moved)

    def _splits(self) -> dict[str, Source]:
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


def _shared(first: Source | None, second: Source) -> int:
    """How many different samples are in both splits."""
    return len({*first.digests} & {*second.digests}) if first is not None else 0


def _without(split: Source, digests: set[bytes]) -> Source:
    """The samples of a split whose checksums are not among these."""
    own = [index for index, digest in enumerate(split.digests) if digest not in digests]
    if not own:
        raise ValueError(
            f"each of the {len(split)} samples drawn for selection is a copy of a calibration or "
            "validation sample; give training data without copies, or ask for no selection samples"
        )
    return split.take(torch.tensor(own)) if len(own) < len(split) else split
