"""From the classes that one run discovered to groups, and to what cannot be cut."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor, nn

from amc_env.structure.channel_ids import NEUTRAL
from amc_env.structure.layer_operations import BATCH_NORMS, INSTANCE_NORMS
from amc_env.structure.ledger import Discovery, LayerSeen
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
    vectors = _Vectors()
    reasons = _reasons(found, labels) | dict(refused)
    sides = _sides(found, axes, model)
    # Where a class of channels lies, as counts by vector of labels. Classes are compared by this
    # and not by name, because channels of one layer can part ways later, as the slices of a
    # concatenation do.
    signatures: defaultdict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    same_labels = _sides_by_labels(sides)
    for label, places in _places(list(same_labels)).items():
        if label not in reasons:
            signatures[tuple(places)].append(label)
    # Norms over channels are marked here, because cutting then differs from silencing by nature.
    normed = _mask(labels, found.normed)
    groups: list[ChannelGroup] = []
    classes: dict[str, Tensor] = {}
    numbers = list(same_labels.values())
    for signature, members in signatures.items():
        own = [sides[n] for n in sorted(n for vector, _ in signature for n in numbers[vector])]
        producers = [side for side in own if side.role == "producer"]
        # A group never loses its last channel, so a single one offers no choice.
        if len(members) < 2 or not producers:
            reasons.update(dict.fromkeys(members, _SINGLE if producers else _NO_PRODUCER))
            continue
        name = _unused(producers[0].module, classes)
        classes[name] = torch.tensor(members)
        groups.append(
            ChannelGroup(
                name=name,
                channels=len(members),
                **_members(own, classes[name]),
                counts=rounding.counts(len(members)),
                has_channel_norm=bool(normed[members].any()),
            )
        )
    return Structure(
        groups=tuple(groups),
        frozen=tuple(_frozen(found, labels, reasons)),
        classes=classes,
        n_labels=len(labels),
        facts={place: tuple(facts) for place, facts in found.facts.items()},
        axes=tuple(replace(axis, labels=vectors.shared(axis.labels)) for axis in axes),
        attributes=tuple(
            CutAttribute(
                module=module, attribute=name, index=index, labels=vectors.shared(labels[ids])
            )
            for (module, name, index), ids in found.attributes.items()
        ),
        layers=tuple(seen.use for seen in found.layers.values()),
    )


def _cut_axes(found: Discovery) -> tuple[CutAxis, ...]:
    """Axes of layer weights, and of bare parameters whose channels lie along one axis."""
    axes = dict(found.axes)
    for name, ids in found.parameters.items():
        if ids.dim() > 1 and _is_unmet(found, ids):
            # A layer's weight that was only transposed on its way to the layer.
            continue
        known = found.classes.canonical(ids)
        # A parameter starts with one id per entry; where it met channels, broadcasting has united
        # the
        # ids along all axes but the one that the channels lie on.
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
    labels = found.classes.labels()
    return tuple(
        CutAxis(tensor=tensor, dim=dim, labels=labels[ids]) for (tensor, dim), ids in axes.items()
    )


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


def _sides(found: Discovery, axes: Iterable[CutAxis], model: nn.Module) -> list[_Side]:
    labels = found.classes.labels()
    sides = [side for seen in found.layers.values() for side in _layer_sides(seen, labels)]
    layer_tensors = {t for seen in found.layers.values() for t in seen.use.tensors}
    modules = dict(model.named_modules())
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


def _layer_sides(seen: LayerSeen, labels: Tensor) -> Iterable[_Side]:
    name, kind = seen.use.name, seen.use.kind
    # A depthwise convolution makes no channels of its own: each output is one of its inputs.
    if kind == "depthwise":
        yield _Side(
            module=name, kind=kind, role="follower", labels=labels[seen.outputs], layer=seen.use
        )
        return
    for role, ids in (("producer", seen.outputs), ("consumer", seen.inputs)):
        yield _Side(module=name, kind=kind, role=role, labels=labels[ids], layer=seen.use)


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


def _sides_by_labels(sides: list[_Side]) -> dict[tuple[int, ...], list[int]]:
    """The numbers of the sides with the same labels: a layer, its norm and what reads them."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, side in enumerate(sides):
        numbers.setdefault(tuple(side.labels.tolist()), []).append(number)
    return numbers


def _places(vectors: list[tuple[int, ...]]) -> dict[int, list[tuple[int, int]]]:
    """In which vectors each label occurs and how often, labels in order of first occurrence."""
    places: dict[int, list[tuple[int, int]]] = {}
    for number, labels in enumerate(vectors):
        for label, count in Counter(labels).items():
            places.setdefault(label, []).append((number, count))
    return places


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
    # Every label occurs equally often on an axis, or the classes would have other signatures; so
    # the
    # sorted axis holds each label's places in one run of known length.
    order = torch.argsort(axis, stable=True)
    start = torch.searchsorted(axis[order], labels)
    places = int((axis == labels[0]).sum())
    return order[start[:, None] + torch.arange(places)]


def _frozen(found: Discovery, labels: Tensor, reasons: Mapping[int, str]) -> Iterable[FrozenGroup]:
    for seen in found.layers.values():
        # Its channels are reported with the layer that makes them.
        if seen.use.kind == "depthwise":
            continue
        by_reason: Counter[str] = Counter()
        for label in labels[seen.outputs].tolist():
            if label in reasons:
                by_reason[reasons[label]] += 1
        for reason, channels in by_reason.items():
            yield FrozenGroup(name=seen.use.name, channels=channels, reason=reason)


class _Vectors:
    """One object for all axes with equal labels, so that each is looked up once in a cut."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Tensor] = {}

    def shared(self, labels: Tensor) -> Tensor:
        return self._known.setdefault(tuple(labels.tolist()), labels)


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
