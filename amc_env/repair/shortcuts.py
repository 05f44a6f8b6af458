"""Finds what is added to a layer's output further on, as the shortcut of a residual block is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.calibration.hooks import EnoughError, listening, run_until_enough

_SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__})


@dataclass(frozen=True, kw_only=True, eq=False)
class Shortcut:
    """The other term of a sum that a layer's output is part of: ``sum = scale * output + other``.

    Attributes:
        other: What ``keep`` made of the other term on one batch.
        scale: What the batch norms between layer and sum multiply each channel by, (channels,).
    """

    other: Tensor
    scale: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Trail:
    """A layer's output on its way through batch norms.

    Attributes:
        layer: Name of the layer.
        values: Its output, and what each norm made of it.
        scale: What the norms have multiplied each channel by, (channels,).
        norms: The norms, each to be called again.
    """

    layer: str
    values: tuple[Tensor, ...]
    scale: Tensor
    norms: tuple[Callable[[], Tensor], ...] = ()

    def behind(self, norm: Callable[[], Tensor], output: Tensor, by: Tensor | None) -> "Trail":
        """The trail behind another norm, which has multiplied the channels by ``by``."""
        scale = self.scale if by is None else self.scale * by
        values, norms = (*self.values, output), (*self.norms, norm)
        return replace(self, values=values, scale=scale, norms=norms)

    def redo_(self, output: Tensor) -> None:
        """Write another output of the layer, and what the norms make of it, over the first ones."""
        # In place, so that whoever holds one of these tensors goes on with the new numbers.
        self.values[0].copy_(output)
        for value, norm in zip(self.values[1:], self.norms, strict=True):
            value.copy_(norm())


class Follower(TorchFunctionMode):
    """Follows outputs of layers through batch norms to their sums.

    Modules do not show sums, which are plain functions in most networks; this mode sees every
    function that runs. A trail goes on with each batch norm and ends at the first other function,
    just before that runs.

    Args:
        layers: Names of the layers whose first outputs are followed.
        on_end: Called with every trail that ends and, if it ends in a sum, the other term.
    """

    def __init__(
        self, layers: Iterable[str], on_end: Callable[[Trail, Tensor | None], None]
    ) -> None:
        super().__init__()
        self._waiting = set(layers)
        self._on_end = on_end
        self._trails: list[Trail] = []

    @property
    def is_done(self) -> bool:
        """Whether all trails have ended."""
        return not self._waiting and not self._trails

    def begin(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Follow a layer's output, the first time that it runs."""
        if name in self._waiting:
            self._waiting.remove(name)
            channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
            scale = torch.ones(channels).to(output)
            self._trails.append(Trail(layer=name, values=(output,), scale=scale))

    def end(self) -> None:
        """End the trails that no function has met."""
        while self._trails:
            self._on_end(self._trails.pop(0), None)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        read = [*args, *given.values()]
        # Tensors have no names here; a function reads a trail if it gets the very same object.
        met = [trail for trail in self._trails if any(v is trail.values[-1] for v in read)]
        if not met or not _is_a_value(func):
            return func(*args, **given)
        call = partial(func, *args, **given)
        by = _multiplier(*args, **given) if func is F.batch_norm else None
        going = [trail for trail in met if by is not None and by.shape == trail.scale.shape]
        # Before the function runs: a sum in place would overwrite the other term.
        for trail in met:
            self._trails.remove(trail)
            if trail not in going:
                self._on_end(*_ended(trail, func, read, alpha=given.get("alpha", 1)))
        output = call()
        self._trails += [trail.behind(call, output, by) for trail in going]
        return output


def shortcuts(
    model: nn.Module,
    layers: Iterable[str],
    batch: Batch,
    *,
    keep: Callable[[str, Tensor], Tensor],
) -> dict[str, Shortcut]:
    """The shortcuts beside some layers on one batch, by name; layers that have none are left out.

    Only batch norms, which multiply and shift, may stand between a layer and its sum. Of a layer
    that runs several times the first output counts. The model must be in evaluation mode; it runs
    no further than the last of the sums. ``keep`` gets the name of a layer and the whole map that
    is added, and returns a new tensor with what is needed of it.
    """
    names = list(layers)
    found: dict[str, Shortcut] = {}

    def note(trail: Trail, other: Tensor | None) -> None:
        if other is not None:
            found[trail.layer] = Shortcut(other=keep(trail.layer, other), scale=trail.scale)
        if follower.is_done:
            raise EnoughError

    follower = Follower(names, note)
    modules = {name: model.get_submodule(name) for name in names}
    with listening(modules, after=follower.begin), follower:
        run_until_enough(model, batch)
    return found


def _ended(
    trail: Trail, func: Callable[..., Any], read: list[Any], *, alpha: float
) -> tuple[Trail, Tensor | None]:
    """A trail that a function has ended, and the other term if the function is a sum."""
    value = trail.values[-1]
    others = [v for v in read if isinstance(v, Tensor) and v is not value]
    # A term of another shape is broadcast: a bias, not a shortcut with a map of its own.
    is_sum = func in _SUMS and len(others) == 1 and others[0].shape == value.shape
    if not is_sum:
        return trail, None
    # torch.add(first, second, alpha=alpha) is first + alpha * second.
    if read[0] is value:
        return trail, others[0] if alpha == 1 else others[0] * alpha
    return replace(trail, scale=trail.scale * alpha), others[0]


def _is_a_value(func: Callable[..., Any]) -> bool:
    """Whether a function computes, and does not just read a property such as the shape."""
    return getattr(func, "__name__", "") not in ("__get__", "size", "dim", "__len__")


def _multiplier(
    _: Tensor,
    _mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    **others: Any,
) -> Tensor:
    if variance is None:
        raise ValueError("a batch norm without running statistics has no fixed scale")
    scale = (variance + float(others.get("eps", 1e-5))).rsqrt()
    return scale if weight is None else scale * weight
