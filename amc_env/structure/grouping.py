"""From the classes that one run discovered to groups, and to what cannot be cut."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from amc_env.structure.channel_ids import NEUTRAL
from amc_env.structure.layer_operations import BATCH_NORMS, INSTANCE_NORMS
from amc_env.structure.ledger import Discovery, LayerSeen
from amc_env.structure.naming import named_modules
from amc_env.structure.partition import alike
from amc_env.structure.records import (
    ChannelGroup,
    CutAttribute,
    CutAxis,
    FrozenGroup,
    LayerUse,
    Member,
    Structure,
)

_SINGLE = "it has a single channel"
_NO_PRODUCER = "no conv or linear layer makes them"


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Which numbers of kept channels are allowed."""

    round_to: int = 1
    min_channels: int = 1

    def __post_init__(self) -> None:
        for name, value in (("round_to", self.round_to), ("min_channels", self.min_channels)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number of at least 1")

    def counts(self, channels: int) -> tuple[int, ...]:
        """Allowed numbers of kept channels of a group, ascending; all is always allowed."""
        first = ceil(self.min_channels / self.round_to) * self.round_to
        return (*range(first, channels, self.round_to), channels)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """One axis on which channels were seen, as a group member would describe it."""

    module: str
    kind: str
    role: str
    labels: Tensor
    layer: LayerUse | None = None


def structure_of(
    found: Discovery, model: nn.Module, *, rounding: Rounding, refused: Mapping[int, str]
) -> Structure:
    """Sort the discovered channel classes into groups and frozen channels.

    Channels that lie on the same axes, in the same number of places, are interchangeable: they
    form a group, and every cost is a function of how many of them stay.

    ``refused`` says why the class with a label may not be cut, beyond what the run found.
    """
    axes = _cut_axes(found)
    labels = found.classes.labels()
    vectors = _Vectors(labels)
    cut_axes = tuple(CutAxis(tensor=t, dim=d, labels=vectors.of(ids)) for (t, d), ids in axes)
    reasons = _reasons(found, labels) | dict(refused)
    sides = _sides(found, cut_axes, vectors, model)
    # Norms over channels are marked here, because cutting then differs from silencing by nature.
    normed = _mask(labels, found.normed)
    groups: list[ChannelGroup] = []
    classes: dict[str, Tensor] = {}
    for own, members in _interchangeable(sides, reasons, len(labels)):
        producers = [side for side in own if side.role == "producer"]
        # A group never loses its last channel, so a single one offers no choice.
        if len(members) < 2 or not producers:
            why = _SINGLE if producers else _NO_PRODUCER
            reasons.update(dict.fromkeys(members.tolist(), why))
            continue
        name = _unused(producers[0].module, classes)
        classes[name] = members
        groups.append(
            ChannelGroup(
                name=name,
                channels=len(members),
                **_members(own, members),
                counts=rounding.counts(len(members)),
                has_channel_norm=bool(normed[members].any()),
            )
        )
    return Structure(
        groups=tuple(groups),
        frozen=tuple(_frozen(found, vectors, reasons)),
        classes=classes,
        n_labels=len(labels),
        facts={place: tuple(facts) for place, facts in found.facts.items()},
        axes=cut_axes,
        attributes=tuple(
            CutAttribute(module=module, attribute=name, index=index, labels=vectors.of(ids))
            for (module, name, index), ids in found.attributes.items()
        ),
        layers=tuple(seen.use for seen in found.layers.values()),
    )


def _cut_axes(found: Discovery) -> list[tuple[tuple[str, int], Tensor]]:
    """Axes of layer weights, and of bare parameters whose channels lie along one axis."""
    axes = dict(found.axes)
    for name, ids in found.parameters.items():
        if ids.dim() > 1 and _is_unmet(found, ids):
            # A layer's weight that was only transposed on its way to the layer.
            continue
        known = found.classes.canonical(ids)
        # A parameter starts with one id per entry; where it met channels, broadcasting has united
        # the ids along all axes but the one that the channels lie on.
        varying = [d for d in range(ids.dim()) if not (known == known.narrow(d, 0, 1)).all()]
        layer_axes = [own for (tensor, _), own in found.axes.items() if tensor == name]
        if ids.dim() > 1 and layer_axes:
            # Ids along the axes of a layer and ids of single entries cannot be told to be equal.
            for own in (ids, *layer_axes):
                found.freeze(own, f"{name} is used by its layer and in another place as well")
        elif len(varying) == 1:
            if (name, varying[0]) in axes:
                found.classes.unite(axes[name, varying[0]], known)
            # All entries along the other axes are the same channel now, so the first stands for
            # them.
            axes[name, varying[0]] = known.movedim(varying[0], 0).reshape(
                ids.shape[varying[0]], -1
            )[:, 0]
        elif varying:
            found.freeze(ids, f"the parameter {name} holds them along several axes")
    return list(axes.items())


def _is_unmet(found: Discovery, ids: Tensor) -> bool:
    """Whether no operation has united these ids with others, or said that they must stay."""
    is_single = found.classes.sizes()[ids] == 1
    frozen = [other for other, _ in found.frozen]
    return bool(is_single.all()) and not any(torch.isin(ids, other).any() for other in frozen)


def _reasons(found: Discovery, labels: Tensor) -> dict[int, str]:
    reasons = {NEUTRAL: "no layer makes them"}
    for ids, reason in found.frozen:
        # The first reason found is the one nearest to the input, which explains most.
        for label in labels[ids].unique().tolist():
            reasons.setdefault(label, reason)
    return reasons


def _sides(
    found: Discovery, axes: Iterable[CutAxis], vectors: "_Vectors", model: nn.Module
) -> list[_Side]:
    sides = [side for seen in found.layers.values() for side in _layer_sides(seen, vectors)]
    layer_tensors = {t for seen in found.layers.values() for t in seen.use.tensors}
    modules = named_modules(model)
    followers: dict[str, _Side] = {}
    for axis in axes:
        # Weight and bias of a norm are two axes of one follower; the first of them describes it.
        if axis.tensor not in layer_tensors:
            module = axis.tensor.rpartition(".")[0]
            kind = _kind(modules[module])
            name = axis.tensor if kind == "parameter" else module
            side = _Side(module=name, kind=kind, role="follower", labels=axis.labels)
            followers.setdefault(name, side)
    return sides + list(followers.values())


def _layer_sides(seen: LayerSeen, vectors: "_Vectors") -> Iterable[_Side]:
    name, kind = seen.use.name, seen.use.kind
    # A depthwise convolution makes no channels of its own: each output is one of its inputs.
    if kind == "depthwise":
        yield _Side(
            module=name,
            kind=kind,
            role="follower",
            labels=vectors.of(seen.outputs),
            layer=seen.use,
        )
        return
    for role, ids in (("producer", seen.outputs), ("consumer", seen.inputs)):
        yield _Side(module=name, kind=kind, role=role, labels=vectors.of(ids), layer=seen.use)


_FOLLOWERS: tuple[tuple[type[nn.Module], str], ...] = (
    *((kind, "batch_norm") for kind in BATCH_NORMS),
    *((kind, "instance_norm") for kind in INSTANCE_NORMS),
    (nn.GroupNorm, "group_norm"),
    (nn.LayerNorm, "layer_norm"),
    (nn.RMSNorm, "rms_norm"),
    (nn.PReLU, "prelu"),
)


def _kind(module: nn.Module) -> str:
    return next((kind for base, kind in _FOLLOWERS if isinstance(module, base)), "parameter")


def _interchangeable(
    sides: Sequence[_Side], reasons: Mapping[int, str], n_labels: int
) -> Iterator[tuple[list[_Side], Tensor]]:
    """Classes of channels that lie on the same sides equally often, and these sides."""
    # Classes are compared by where they lie and not by name, because channels of one layer can
    # part ways later, as the slices of a concatenation do.
    numbers: dict[int, list[int]] = {}
    for number, side in enumerate(sides):
        # By identity: sides with equal labels, as a layer, its norm and what reads them, share one
        # vector.
        numbers.setdefault(id(side.labels), []).append(number)
    same_labels = list(numbers.values())
    free = torch.ones(n_labels, dtype=torch.bool)
    free[list(reasons)] = False
    for places, members in alike([sides[own[0]].labels for own in same_labels], free):
        yield [sides[n] for n in sorted(n for place in places for n in same_labels[place])], members


def _members(sides: list[_Side], labels: Tensor) -> dict[str, tuple[Member, ...]]:
    """The group's producers, consumers and followers."""
    return {
        f"{role}s": tuple(
            Member(
                module=s.module,
                kind=s.kind,
                positions=_positions(s.labels, labels),
                layer=s.layer,
            )
            for s in sides
            if s.role == role
        )
        for role in ("producer", "consumer", "follower")
    }


def _positions(axis: Tensor, labels: Tensor) -> Tensor:
    """(channels, places): where each of ``labels`` stands along ``axis``."""
    if torch.equal(axis, labels):
        return torch.arange(len(axis))[:, None]
    # Every label occurs equally often on an axis, or the classes would have other signatures; so
    # the sorted axis holds each label's places in one run of known length.
    order = torch.argsort(axis, stable=True)
    start = torch.searchsorted(axis[order], labels)
    places = int((axis == labels[0]).sum())
    return order[start[:, None] + torch.arange(places)]


def _frozen(
    found: Discovery, vectors: "_Vectors", reasons: Mapping[int, str]
) -> Iterable[FrozenGroup]:
    for seen in found.layers.values():
        # Its channels are reported with the layer that makes them.
        if seen.use.kind == "depthwise":
            continue
        by_reason: Counter[str] = Counter()
        for label in vectors.of(seen.outputs).tolist():
            if label in reasons:
                by_reason[reasons[label]] += 1
        for reason, channels in by_reason.items():
            yield FrozenGroup(name=seen.use.name, channels=channels, reason=reason)


class _Vectors:
    """One object for all axes with equal labels, so that each is looked up once in a cut."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        # Mostly a layer passes on the very ids that it was given. They are held with their labels,
        # so that their id() is not given to others.
        self._by_ids: dict[int, tuple[Tensor, Tensor]] = {}
        self._by_value: dict[bytes, Tensor] = {}

    def of(self, ids: Tensor) -> Tensor:
        """The labels of a vector of channel ids."""
        if id(ids) not in self._by_ids:
            own = self._labels[ids]
            self._by_ids[id(ids)] = ids, self._by_value.setdefault(own.numpy().tobytes(), own)
        return self._by_ids[id(ids)][1]


def _mask(labels: Tensor, ids: list[Tensor]) -> Tensor:
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for some in ids:
        mask[labels[some]] = True
    return mask


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}@{number}", number + 1
    return candidate
