"""Where a run of the model writes down what it learns about channels, or checks what it knew."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.structure.channel_ids import NEUTRAL, ChannelClasses, along, narrow_repeats
from amc_env.structure.records import LayerUse


class ChannelMismatchError(Exception):
    """A cut network handed a layer other channels than its weights are for."""


class Ledger(ABC):
    """What the tracer asks and tells while it follows channels through one run."""

    @abstractmethod
    def produce(self, tensor: str, dim: int, size: int) -> Tensor:
        """Ids of the channels that a layer makes along one axis of its weight."""

    @abstractmethod
    def consume(self, tensor: str, dim: int, ids: Tensor) -> None:
        """Say that the channels ``ids`` meet the entries along one axis of a tensor."""

    @abstractmethod
    def knows_axis(self, tensor: str, dim: int) -> bool:
        """Whether channels were seen along this axis of a tensor before."""

    @abstractmethod
    def parameter(self, tensor: str, shape: tuple[int, ...]) -> Tensor:
        """Ids of a parameter or buffer that is used by itself, outside any layer."""

    @abstractmethod
    def unite(self, first: Tensor, second: Tensor) -> None:
        """Say that the channels at the same places of two tensors are the same."""

    @abstractmethod
    def freeze(self, ids: Tensor, reason: str) -> None:
        """Say that these channels must all stay."""

    @abstractmethod
    def settle(self, place: str, seen: Callable[[], bool]) -> bool:
        """What ``seen`` finds in the whole network, also when a cut one is followed.

        A cut to one channel hides along which dimension channels lie.

        Args:
            place: The operation and the module that asks, which may ask several times.
            seen: Looks for it.
        """

    @abstractmethod
    def constant(self, shape: tuple[int, ...], reason: str) -> Tensor:
        """Ids for a tensor of fixed size: whatever it meets must stay."""

    @abstractmethod
    def canonical(self, ids: Tensor) -> Tensor:
        """One representative for all ids known to be the same channel."""

    @abstractmethod
    def attribute(
        self, module: str, attribute: str, ids: Tensor, *, index: int | None = None
    ) -> None:
        """Say that a module stores the number of channels ``ids`` under ``attribute``.

        In a list or tuple, ``index`` is the number's place.
        """

    @abstractmethod
    def layer(self, use: LayerUse, inputs: Tensor, outputs: Tensor) -> None:
        """Say that a weight was used once more, and on which channels."""

    @abstractmethod
    def channel_norm(self, ids: Tensor) -> None:
        """Say that a norm takes statistics over these channels."""


class LayerSeen(NamedTuple):
    """A layer, its number of uses so far, and the channels on its two sides."""

    use: LayerUse
    inputs: Tensor
    outputs: Tensor


class Discovery(Ledger):
    """Collects classes, axes and layers from scratch."""

    def __init__(self) -> None:
        self.classes = ChannelClasses()
        self.axes: dict[tuple[str, int], Tensor] = {}
        self.parameters: dict[str, Tensor] = {}
        self.attributes: dict[tuple[str, str, int | None], Tensor] = {}
        self.layers: dict[str, LayerSeen] = {}
        self.frozen: list[tuple[Tensor, str]] = []
        self.facts: defaultdict[str, list[bool]] = defaultdict(list)
        self.normed: list[Tensor] = []
        self.calls: list[str] = []
        self.counts_uses = True

    @override
    def produce(self, tensor: str, dim: int, size: int) -> Tensor:
        # A layer that runs twice makes the same channels twice: its second run gets the ids of the
        # first.
        if (tensor, dim) not in self.axes:
            self.axes[tensor, dim] = self.classes.fresh(size)
        return self.axes[tensor, dim]

    @override
    def consume(self, tensor: str, dim: int, ids: Tensor) -> None:
        # A weight that is read with other channels later, in a second use, unites both sets.
        known = self.axes.setdefault((tensor, dim), ids)
        self._meet(known, ids, tensor)

    @override
    def knows_axis(self, tensor: str, dim: int) -> bool:
        return (tensor, dim) in self.axes

    @override
    def parameter(self, tensor: str, shape: tuple[int, ...]) -> Tensor:
        # One id for every entry: along which axis channels lie shows when the parameter meets some.
        if tensor not in self.parameters:
            count = torch.Size(shape).numel()
            self.parameters[tensor] = self.classes.fresh(count).view(shape)
        return self.parameters[tensor]

    @override
    def unite(self, first: Tensor, second: Tensor) -> None:
        self.classes.unite(first, second)

    @override
    def freeze(self, ids: Tensor, reason: str) -> None:
        (narrow,) = narrow_repeats(ids)
        self.frozen.append((narrow.unique(), reason))

    @override
    def settle(self, place: str, seen: Callable[[], bool]) -> bool:
        self.facts[place].append(seen())
        return self.facts[place][-1]

    @override
    def constant(self, shape: tuple[int, ...], reason: str) -> Tensor:
        # A single id for all places: whatever they meet has to stay, and need not be told apart.
        ids = self.classes.fresh(1)
        self.freeze(ids, reason)
        return ids.view([1] * len(shape)).expand(shape)

    @override
    def canonical(self, ids: Tensor) -> Tensor:
        return self.classes.canonical(ids)

    @override
    def attribute(
        self, module: str, attribute: str, ids: Tensor, *, index: int | None = None
    ) -> None:
        self.attributes.setdefault((module, attribute, index), ids)

    @override
    def layer(self, use: LayerUse, inputs: Tensor, outputs: Tensor) -> None:
        # A weight that is computed has no name; the layer's own and its shape tell it apart.
        key = use.weight or f"{use.name} {use.shape}"
        seen = self.layers.get(key)
        if seen is None:
            uses = use.uses if self.counts_uses else 0
            self.layers[key] = LayerSeen(replace(use, uses=uses), inputs, outputs)
            return
        if seen.use.output_dim != use.output_dim:
            # As in an autoencoder with tied weights: each axis is read here and written there, so
            # that no consumer would be known whose weights could be repaired.
            reason = f"{use.weight} is used once as it is and once transposed"
            for ids in (inputs, outputs, seen.inputs, seen.outputs):
                self.freeze(ids, reason)
        else:
            self._meet(seen.inputs, inputs, use.name)
        uses = seen.use.uses + (use.uses if self.counts_uses else 0)
        self.layers[key] = seen._replace(use=replace(seen.use, uses=uses))

    @override
    def channel_norm(self, ids: Tensor) -> None:
        self.normed.append(ids)

    def _meet(self, known: Tensor, ids: Tensor, where: str) -> None:
        if known is ids:
            return
        self.unite(known, ids)
        # Places without channels, such as padding, cannot shrink with channels that stand there in
        # another use of the same weight.
        fixed = (known == NEUTRAL) != (ids == NEUTRAL)
        if fixed.any():
            reason = f"{where} is used on these channels and elsewhere on none"
            self.freeze(torch.cat([known[fixed], ids[fixed]]), reason)


class Verification(Ledger):
    """Compares the channels that reach each layer of a cut network with those it was cut for.

    Args:
        expected: Class label of every index of every axis that was kept, by tensor and dimension.
        fixed: Mask over labels: these were never cut, so an unlabelled channel may stand for them.
        facts: What the run of the whole network settled, in order, by place.
    """

    def __init__(
        self,
        expected: Mapping[tuple[str, int], Tensor],
        *,
        fixed: Tensor,
        facts: Mapping[str, Sequence[bool]],
    ) -> None:
        self._expected = expected
        self._fixed = fixed
        self._facts = facts
        self._asked = Counter[str]()

    @override
    def produce(self, tensor: str, dim: int, size: int) -> Tensor:
        known = self._expected.get((tensor, dim))
        return torch.zeros(size, dtype=torch.long) if known is None else known

    @override
    def consume(self, tensor: str, dim: int, ids: Tensor) -> None:
        known = self._expected.get((tensor, dim))
        # Axes with the same channels share one vector, and it comes back from the layer it went to.
        if known is None or known is ids:
            return
        if known.shape != ids.shape:
            raise ChannelMismatchError(
                f"{tensor} would be given {len(ids)} channels where it takes {len(known)}"
            )
        if (
            not torch.equal(known, ids)
            and not ((known == ids) | ((ids == NEUTRAL) & self._fixed[known])).all()
        ):
            raise ChannelMismatchError(f"{tensor} would be given other channels than its own")

    @override
    def knows_axis(self, tensor: str, dim: int) -> bool:
        return (tensor, dim) in self._expected

    @override
    def parameter(self, tensor: str, shape: tuple[int, ...]) -> Tensor:
        for dim in range(len(shape)):
            if (tensor, dim) in self._expected:
                return along(self._expected[tensor, dim], shape, dim)
        return torch.zeros((), dtype=torch.long).expand(shape)

    @override
    def unite(self, first: Tensor, second: Tensor) -> None:
        first, second = narrow_repeats(first, second)
        if torch.equal(first, second):
            return
        if ((first != second) & (first != NEUTRAL) & (second != NEUTRAL)).any():
            raise ChannelMismatchError("different channels would meet in one operation")

    @override
    def freeze(self, ids: Tensor, reason: str) -> None:
        (narrow,) = narrow_repeats(ids)
        if not (self._fixed[narrow] | (narrow == NEUTRAL)).all():
            raise ChannelMismatchError(reason)

    @override
    def settle(self, place: str, seen: Callable[[], bool]) -> bool:
        if place not in self._facts:
            raise ChannelMismatchError("the network would take another way through its forward")
        facts = self._facts[place]
        number = self._asked[place]
        self._asked[place] += 1
        # A loop over what a detector finds takes more or fewer rounds when channels are cut.
        return facts[min(number, len(facts) - 1)]

    @override
    def constant(self, shape: tuple[int, ...], reason: str) -> Tensor:
        return torch.zeros((), dtype=torch.long).expand(shape)

    @override
    def canonical(self, ids: Tensor) -> Tensor:
        return ids

    @override
    def attribute(
        self, module: str, attribute: str, ids: Tensor, *, index: int | None = None
    ) -> None:
        pass

    @override
    def layer(self, use: LayerUse, inputs: Tensor, outputs: Tensor) -> None:
        pass

    @override
    def channel_norm(self, ids: Tensor) -> None:
        pass
