"""What is added to a layer's output further on, as in a residual block."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.calibration.hooks import run

_SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__})


@dataclass(frozen=True, kw_only=True, eq=False)
class Shortcut:
    """The other term of a sum that a layer's output goes into.

    Attributes:
        other: The term on one batch, in the shape of the layer's output.
        scale: What the batch norms between layer and sum multiply each channel by, (channels,).
    """

    other: Tensor
    scale: Tensor


class _FoundError(Exception):
    """Ends a run once every layer's output has come to what it is for."""


def shortcuts(model: nn.Module, layers: Iterable[str], batch: Tensor) -> dict[str, Shortcut]:
    """The shortcuts beside some layers on one batch, by name; those that have none are left out.

    Between a layer and its sum there may be batch norms alone, which multiply and shift. Of a layer
    that is used several times the first counts. The model must be in evaluation mode; it runs no
    further than the last of the sums.
    """
    watcher = _Watcher(layers)
    handles = [
        model.get_submodule(layer).register_forward_hook(watcher.listener(layer))
        for layer in watcher.waiting
    ]
    try:
        with watcher:
            run(model, batch)
    except _FoundError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return watcher.found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trail:
    """A layer's output on its way, and what norms have multiplied it by."""

    layer: str
    value: Tensor
    scale: Tensor


class _Watcher(TorchFunctionMode):
    """Follows outputs of layers through batch norms to their sums."""

    def __init__(self, layers: Iterable[str]) -> None:
        super().__init__()
        self.waiting = set(layers)
        self.found: dict[str, Shortcut] = {}
        self._trails: list[_Trail] = []

    def listener(self, layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """A hook that follows the first output of a layer."""

        def listen(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if layer in self.waiting:
                self.waiting.remove(layer)
                scale = torch.ones(output.shape[1]).to(output)
                self._trails.append(_Trail(layer=layer, value=output, scale=scale))

        return listen

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
        met = [trail for trail in self._trails if any(value is trail.value for value in values)]
        if not met or not _is_a_value(func):
            return func(*args, **given)
        self._trails = [trail for trail in self._trails if trail not in met]
        if func is not F.batch_norm:
            self._end(func, met, values)
            return func(*args, **given)
        output = func(*args, **given)
        by = _multiplier(*args, **given)
        self._trails += [replace(trail, value=output, scale=trail.scale * by) for trail in met]
        return output

    def _end(self, func: Callable[..., Any], met: list[_Trail], values: list[Any]) -> None:
        for trail in met:
            others = [v for v in values if isinstance(v, Tensor) and v is not trail.value]
            fits = [other for other in others if other.shape == trail.value.shape]
            if func in _SUMS and len(fits) == len(others) == 1:
                self.found[trail.layer] = Shortcut(other=fits[0].clone(), scale=trail.scale)
        if not self.waiting and not self._trails:
            raise _FoundError


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
