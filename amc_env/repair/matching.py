"""Which channels of a network are left in a copy of it that somebody else has cut.

Nothing is known of the cut network but its weights. Those that stay are slices of the original
weights, perhaps fine-tuned a little. All axes of tensors on which the same channels lie in the same
order (the outputs of a layer, the norm behind it, the inputs of the next layer) are matched
together, in execution order: the rows of a weight can be compared as soon as it is known which of
its inputs are left. A group of channels that is settled on one axis is settled on all others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc_env.repair.alignment import aligned, row_similarities
from amc_env.structure import ChannelGraph
from amc_env.structure.naming import named_tensors
from amc_env.structure.records import CutAxis, Structure

_UNKNOWN, _CUT, _KEPT = -1, 0, 1
# Unrelated weights have similarities around 0.
_LEAST_SIMILARITY = 0.5
# The best channel that is gone must be this many times as far from similarity 1 as the kept one.
_MARGIN = 1.5
# Nearer than this to similarity 1 two channels are the same, and either may stand for the other.
_SAME = 1e-3
# A match is evidence for other matches, so that a wrong one is mended in the next round.
_ROUNDS = 10

# The indices of the original that are left along a kind of axis, by the number of the kind.
_Found = Mapping[int, Tensor]
_Pairs = Sequence[tuple[Tensor, Tensor]]


def kept_channels(graph: ChannelGraph, small: nn.Module) -> dict[str, Tensor]:
    """Indices of the channels that ``small`` keeps, for every group that it has cut.

    Args:
        graph: The structure of the original network.
        small: A copy of that network with the same names of modules and parameters, some channels
            of which were cut by whatever means. Those that are left keep their order.

    Raises:
        ValueError: A parameter of one network is missing in the other, something was cut that
            cannot be, or weights match no channels or could match several. The message names the
            layer and the shapes.
    """
    _check_names(graph.model, small)
    networks = _Networks(graph, small)
    for name, tensor in networks.small.items():
        if tensor.dim() != networks.original[name].dim():
            raise ValueError(networks.mismatch(name))
    state, found = _settled(networks)
    _check(networks, found)
    kept = {
        name: (state[labels] == _KEPT).nonzero().flatten()
        for name, labels in graph.structure.classes.items()
    }
    return {name: k for name, k in kept.items() if len(k) < graph.group(name).channels}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kind:
    """All axes along which the same channels lie in the same order.

    Attributes:
        number: Position among all kinds, in execution order.
        labels: Channel class of every index along the axes.
        axes: The axes, of which there is at least one.
    """

    number: int
    labels: Tensor
    axes: tuple[CutAxis, ...]


class _Networks:
    """The tensors of both networks, and the kinds of axes along which they differ."""

    def __init__(self, graph: ChannelGraph, small: nn.Module) -> None:
        self.graph = graph
        self.original = {name: t.detach() for name, t in named_tensors(graph.model)}
        self.small = {name: t.detach().to(self.original[name]) for name, t in named_tensors(small)}
        self.kinds = _kinds(graph.structure)
        # Running statistics follow the inputs of a layer, which a cut changes.
        self._learned = {name for name, _ in graph.model.named_parameters()}
        self._numbers = {
            (axis.tensor, axis.dim): kind.number for kind in self.kinds for axis in kind.axes
        }

    def size(self, kind: _Kind) -> int:
        """How many indices the cut network has along a kind of axis."""
        first = kind.axes[0]
        return self.small[first.tensor].shape[first.dim]

    def left(self, name: str, dims: Iterable[int], found: _Found) -> Tensor:
        """A tensor of the original with what is left along some of its dimensions."""
        tensor = self.original[name]
        for dim in dims:
            number = self._numbers.get((name, dim))
            if number is not None and len(found[number]) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, found[number].to(tensor.device))
        return tensor

    def pairs(self, kind: _Kind, found: _Found) -> _Pairs:
        """Rows along a kind of axis, of the cut and of the original weights, that are comparable.

        Raises:
            ValueError: Sizes contradict each other.
        """
        pairs = []
        for axis in kind.axes:
            others = [d for d in range(self.original[axis.tensor].dim()) if d != axis.dim]
            if self.small[axis.tensor].shape[axis.dim] != self.size(kind):
                raise ValueError(self.mismatch(axis.tensor))
            if not self._are_comparable(axis.tensor, others, found):
                continue
            small, whole = self.small[axis.tensor], self.left(axis.tensor, others, found)
            if any(small.shape[dim] != whole.shape[dim] for dim in others):
                raise ValueError(self.mismatch(axis.tensor))
            pairs.append((_rows(small, axis.dim), _rows(whole, axis.dim)))
        return pairs

    def _are_comparable(self, name: str, dims: Sequence[int], found: _Found) -> bool:
        numbers = [self._numbers.get((name, dim)) for dim in dims]
        return name in self._learned and all(n is None or n in found for n in numbers)

    def mismatch(self, name: str) -> str:
        """Why a tensor of the cut network cannot be one of the original network."""
        small, original = self.small[name].shape, self.original[name].shape
        layer = name.rpartition(".")[0]
        reasons = [frozen.reason for frozen in self.graph.frozen if frozen.name == layer]
        # What cannot be cut are outputs, which lie along the first axis.
        why = (
            f"not all its channels can be cut, because {reasons[0]}"
            if reasons and small[:1] != original[:1]
            else "all layers that share channels must keep the same of them"
        )
        return (
            f"{name!r} has the shape {tuple(small)} in the cut network and {tuple(original)} in "
            f"the original, which does not fit to the other layers: {why}; see the groups that "
            "`python -m amc_env inspect` shows"
        )


def _settled(networks: _Networks) -> tuple[Tensor, _Found]:
    """Which channel classes and indices are left, once another round would change nothing."""
    start = _start(networks)
    state, found = _round(networks, start, {})
    for _ in range(_ROUNDS):
        before = found
        state, found = _round(networks, start, before)
        if found.keys() == before.keys() and all(found[n].equal(before[n]) for n in found):
            break
    return state, found


def _start(networks: _Networks) -> Tensor:
    """What is known of each channel class before any weight is compared."""
    structure = networks.graph.structure
    state = torch.full((structure.n_labels,), _KEPT)
    for labels in structure.classes.values():
        state[labels] = _UNKNOWN
    for kind in networks.kinds:
        if networks.size(kind) == len(kind.labels):
            state[kind.labels] = _KEPT
    return state


def _round(networks: _Networks, start: Tensor, before: _Found) -> tuple[Tensor, _Found]:
    """Match all kinds of axes in execution order, with what an earlier round has found."""
    state, found = start.clone(), dict(before)
    for kind in networks.kinds:
        chosen = _match(networks, kind, state[kind.labels], found)
        if chosen is not None:
            found[kind.number] = chosen
            state[kind.labels] = _CUT
            state[kind.labels[chosen]] = _KEPT
    return state, found


def _match(networks: _Networks, kind: _Kind, states: Tensor, found: _Found) -> Tensor | None:
    """Indices that are left along a kind of axis; None if there is nothing to compare yet."""
    allowed = (states != _CUT).nonzero().flatten()
    is_needed = states[allowed] == _KEPT
    size = networks.size(kind)
    if not is_needed.sum() <= size <= len(allowed):
        raise ValueError(networks.mismatch(kind.axes[0].tensor))
    if len(allowed) == size:
        return allowed
    pairs = networks.pairs(kind, found)
    # The bonus outweighs any sum of similarities, so that all that is known to be left is matched.
    bonus = 2.0 * size * is_needed
    return allowed[aligned(_similarities(pairs).cpu()[:, allowed] + bonus)] if pairs else None


def _check(networks: _Networks, found: _Found) -> None:
    """Refuse a match that is incomplete, poor or ambiguous."""
    for kind in networks.kinds:
        if kind.number not in found:
            raise ValueError(
                f"there is no weight by which the channels of {kind.axes[0].tensor!r} that are "
                "left can be told"
            )
    for name, small in networks.small.items():
        _check_tensor(networks, name, networks.left(name, range(small.dim()), found))
    # Only the first axes on which channels lie were matched by similarity. Others follow, and the
    # similarities along a flattened axis of many thousands would not fit into memory.
    is_settled = torch.zeros(networks.graph.structure.n_labels, dtype=torch.bool)
    for kind in networks.kinds:
        chosen = found[kind.number]
        if len(chosen) < len(kind.labels) and not is_settled[kind.labels].all():
            _check_margin(kind, networks.pairs(kind, found), chosen)
        is_settled[kind.labels] = True


def _check_tensor(networks: _Networks, name: str, left: Tensor) -> None:
    small = networks.small[name]
    if small.shape != left.shape:
        raise ValueError(networks.mismatch(name))
    # Biases and norms are few numbers, and fine-tuning may turn them over.
    if small.dim() > 1 and row_similarities(small.reshape(1, -1), left.reshape(1, -1)) < (
        _LEAST_SIMILARITY
    ):
        raise ValueError(
            f"{name!r} of the cut network, of shape {tuple(small.shape)}, matches no channels of "
            f"the original, of shape {tuple(networks.original[name].shape)}: either that is not "
            "the network that it was cut from, or channels were put into another order, or layers "
            "whose outputs are added lost different ones"
        )


def _check_margin(kind: _Kind, pairs: _Pairs, chosen: Tensor) -> None:
    """Refuse a match if a channel that is gone fits nearly as well as one that is kept."""
    gone = torch.ones(len(kind.labels), dtype=torch.bool)
    gone[chosen] = False
    kept = [(small, whole[chosen]) for small, whole in pairs]
    own = 1 - _similarities(kept).diagonal()
    rivals = 1 - _similarities([(small, whole[gone]) for small, whole in pairs])
    twins = 1 - _similarities([(whole[chosen], whole[gone]) for _, whole in pairs])
    rivals[twins < _SAME] = float("inf")
    unsure = (own > _SAME) & (_MARGIN * own > rivals.min(1).values)
    if unsure.any():
        place = int(unsure.nonzero()[0])
        raise ValueError(
            f"channel {place} of {kind.axes[0].tensor!r} in the cut network is nearly as much like "
            f"a channel of the original that would be gone as like channel {int(chosen[place])}; "
            "give weights that are nearer to the original's, as before a long fine-tuning"
        )


def _similarities(pairs: _Pairs) -> Tensor:
    """Similarities (rows, others) over several weights; a weight counts by its columns."""
    total = torch.zeros(())
    for rows, others in pairs:
        total = total.to(rows.device) + rows.shape[1] * row_similarities(rows, others)
    return total / sum(rows.shape[1] for rows, _ in pairs)


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)


def _kinds(structure: Structure) -> tuple[_Kind, ...]:
    together: dict[tuple[int, ...], list[CutAxis]] = {}
    for axis in structure.axes:
        together.setdefault(tuple(axis.labels.tolist()), []).append(axis)
    return tuple(
        _Kind(number=number, labels=axes[0].labels, axes=tuple(axes))
        for number, axes in enumerate(together.values())
    )


def _check_names(original: nn.Module, small: nn.Module) -> None:
    ours, theirs = ({name for name, _ in named_tensors(m)} for m in (original, small))
    for names, others, where in ((theirs, ours, "original"), (ours, theirs, "cut")):
        missing = sorted(names - others)
        if missing:
            raise ValueError(
                f"the {where} network has no {missing[0]!r}, nor {len(missing) - 1} other tensors "
                "of the other network; both must have the same modules and parameters by name"
            )
