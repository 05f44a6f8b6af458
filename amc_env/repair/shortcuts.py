"""Finds what is added to a layer's output further on, as the shortcut of a residual block is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

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


def shortcuts(
    model: nn.Module,
    layers: Iterable[str],
    batch: Tensor,
    *,
    keep: Callable[[str, Tensor], Tensor],
) -> dict[str, Shortcut]:
    """The shortcuts beside some layers on one batch, by name; layers that have none are left out.

    Only batch norms, which multiply and shift, may stand between a layer and its sum. Of a layer
    that runs several times the first output counts. The model must be in evaluation mode; it runs
    no further than the last of the sums. ``keep`` gets the name of a layer and the whole map that
    is added, and returns a new tensor with what is needed of it.
    """
    watcher = _Watcher(layers, keep)
    modules = {name: model.get_submodule(name) for name in watcher.waiting}
    with listening(modules, after=watcher.begin), watcher:
        run_until_enough(model, batch)
    return watcher.found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trail:
    """A layer's output on its way, and the factor that norms have multiplied it by so far."""

    layer: str
    value: Tensor
    scale: Tensor


class _Watcher(TorchFunctionMode):
    """Follows outputs of layers through batch norms to their sums.

    Modules do not show sums, which are plain functions in most networks; this mode sees every
    function that runs. A trail goes on with each batch norm and ends at the first other function.
    """

    def __init__(self, layers: Iterable[str], keep: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.waiting = set(layers)
        self.found: dict[str, Shortcut] = {}
        self._keep = keep
        self._trails: list[_Trail] = []

    def begin(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Follow a layer's output, the first time that it runs."""
        if name in self.waiting:
            self.waiting.remove(name)
            channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
            scale = torch.ones(channels).to(output)
            self._trails.append(_Trail(layer=name, value=output, scale=scale))

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        values = [*args, *given.values()]
        # Tensors have no names here; a function reads a trail if it gets the very same object.
        met = [trail for trail in self._trails if any(value is trail.value for value in values)]
        if not met or not _is_a_value(func):
            return func(*args, **given)
        self._trails = [trail for trail in self._trails if trail not in met]
        if func is not F.batch_norm:
            # Before the function runs: a sum in place would overwrite the other term.
            self._end(func, met, values, alpha=given.get("alpha", 1))
            return func(*args, **given)
        output = func(*args, **given)
        by = _multiplier(*args, **given)
        self._trails += [
            replace(trail, value=output, scale=trail.scale * by)
            for trail in met
            if trail.scale.shape == by.shape
        ]
        return output

    def _end(
        self, func: Callable[..., Any], met: list[_Trail], values: list[Any], *, alpha: float
    ) -> None:
        for trail in met:
            others = [v for v in values if isinstance(v, Tensor) and v is not trail.value]
            # A term of another shape is broadcast: a bias, not a shortcut with a map of its own.
            fits = [other for other in others if other.shape == trail.value.shape]
            if func in _SUMS and len(fits) == len(others) == 1:
                other, scale = self._keep(trail.layer, fits[0]), trail.scale
                # torch.add(first, second, alpha=alpha) is first + alpha * second.
                if values[0] is trail.value:
                    other = other * alpha
                else:
                    scale = scale * alpha
                self.found[trail.layer] = Shortcut(other=other, scale=scale)
        if not self.waiting and not self._trails:
            raise EnoughError


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
