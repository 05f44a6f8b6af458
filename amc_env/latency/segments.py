"""A layer with what hangs on it, cut out of a network's forward pass to be timed by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import tensors_in
from amc_env.structure.naming import named_tensors


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands among the inputs, weights and results of a segment."""

    index: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """A call of torch, with places in the stead of tensors, and the places of its results."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[int, ...]


class Segment(nn.Module):
    """All calls of torch from one layer to the next: the layer, and what hangs on it.

    That is mostly a norm, an activation and the sum of a residual block. The segments of a network
    are its whole forward pass, but for what runs before its first layer and for Python itself.

    Attributes:
        layer: Name of the layer that it begins with.
        inputs: The tensors that it reads of what was computed before.
        signature: Its calls with the shapes of their tensors, in words; segments with the same
            signature take the same time.
    """

    def __init__(
        self,
        layer: str,
        *,
        inputs: Mapping[int, Tensor],
        weights: Mapping[int, Tensor],
        steps: Sequence[_Step],
        signature: str,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = tuple(inputs.values())
        self.signature = signature
        self._steps = tuple(steps)
        self._input_places = tuple(inputs)
        self._weight_names = {place: f"weight{place}" for place in weights}
        for place, tensor in weights.items():
            self.register_buffer(self._weight_names[place], tensor.detach())
        read = {place for step in steps for place in _places((step.args, step.kwargs))}
        self._ends = tuple(place for step in steps for place in step.results if place not in read)

    @override
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        known = dict(zip(self._input_places, inputs, strict=True))
        known |= {place: getattr(self, name) for place, name in self._weight_names.items()}
        fill = partial(_filled, known)
        for step in self._steps:
            args, kwargs = _mapped(step.args, fill), _mapped(step.kwargs, fill)
            known |= zip(step.results, tensors_in(step.function(*args, **kwargs)), strict=True)
        return tuple(known[place] for place in self._ends)


class SegmentRecorder(TorchFunctionMode):
    """Hands over every segment of a forward pass as soon as it has run.

    Args:
        model: The network that runs while the recorder is active.
        layers: Names of layers by the names of their weights.
        listener: Is called with every segment. It may take its time: the forward pass waits.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, str], listener: Callable[[Segment], None]
    ) -> None:
        super().__init__()
        self._owned = {id(tensor) for _, tensor in named_tensors(model)}
        self._layers = layers_by_tensor(model, layers)
        self._listener = listener
        self._open: _OpenSegment | None = None

    def close(self) -> None:
        """Hand over the last segment, which ends with the forward pass."""
        if self._open is not None:
            self._listener(self._open.closed())
        self._open = None

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        layer = next((self._layers[id(t)] for t in tensors_in((args, given)) if self._has(t)), None)
        if layer is not None:
            self.close()
            self._open = _OpenSegment(layer, self._owned)
        result = func(*args, **given)
        # Calls without tensors for results, such as questions for a shape, take no time of note.
        if self._open is not None and any(True for _ in tensors_in(result)):
            self._open.add(func, args, given, result)
        return result

    def _has(self, tensor: Tensor) -> bool:
        return id(tensor) in self._layers


class _OpenSegment:
    """Collects the calls of a segment."""

    def __init__(self, layer: str, owned: set[int]) -> None:
        self._layer = layer
        self._owned = owned
        # The tensors are kept, so that no id() is given to another while the segment is open.
        self._tensors: list[Tensor] = []
        self._index: dict[int, int] = {}
        self._made: set[int] = set()
        self._steps: list[_Step] = []
        self._words: list[str] = []

    def add(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Note one call."""
        name = getattr(func, "__name__", str(func))
        shown = _mapped((args, dict(kwargs)), _shown)
        self._words.append(f"{name} {shown[0]} {shown[1] or ''}".strip())
        placed = _mapped((args, dict(kwargs)), self._placed)
        results = tuple(self._place(tensor) for tensor in tensors_in(out))
        # What a call changes in place was there before it.
        known = set(_places(placed))
        self._made |= set(results) - known
        self._steps.append(_Step(function=func, args=placed[0], kwargs=placed[1], results=results))

    def closed(self) -> Segment:
        """The segment."""
        given = {p: t for p, t in enumerate(self._tensors) if p not in self._made}
        return Segment(
            self._layer,
            inputs={p: t for p, t in given.items() if id(t) not in self._owned},
            weights={p: t for p, t in given.items() if id(t) in self._owned},
            steps=self._steps,
            signature="; ".join(self._words),
        )

    def _placed(self, value: Any) -> Any:
        return _Place(self._place(value)) if isinstance(value, Tensor) else value

    def _place(self, tensor: Tensor) -> int:
        if id(tensor) not in self._index:
            self._index[id(tensor)] = len(self._tensors)
            self._tensors.append(tensor)
        return self._index[id(tensor)]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of nested tuples, lists and mappings with every other value changed."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    return change(value)


def _filled(known: Mapping[int, Tensor], value: Any) -> Any:
    return known[value.index] if isinstance(value, _Place) else value


def _shown(value: Any) -> Any:
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else value


def _places(value: Any) -> list[int]:
    """The places in nested tuples, lists and mappings."""
    found: list[int] = []
    _mapped(value, lambda item: found.append(item.index) if isinstance(item, _Place) else None)
    return found


def layers_by_tensor(model: nn.Module, layers: Mapping[str, str]) -> dict[int, str]:
    """Names of layers by the ``id()`` of their weights, from those by the names of the weights."""
    tensors = dict(named_tensors(model))
    return {id(tensors[weight]): layer for weight, layer in layers.items()}


@torch.no_grad()
def record_segments(
    model: nn.Module,
    inputs: Tensor,
    layers: Mapping[str, str],
    listener: Callable[[Segment], None],
) -> None:
    """Run a network, and hand over each of its segments as soon as it has run.

    Args:
        model: The network, in evaluation mode.
        inputs: A batch.
        layers: Names of layers by the names of their weights.
        listener: Is called with every segment.
    """
    recorder = SegmentRecorder(model, layers, listener)
    with recorder:
        model(inputs)
    recorder.close()
