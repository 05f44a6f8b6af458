"""What is added to a layer's output further on, as in a residual block."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.running import run

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
    """Ends a run at the sum that it is for."""


def shortcut(model: nn.Module, layer: str, batch: Tensor) -> Shortcut | None:
    """The shortcut beside a layer on one batch; None where there is none.

    Between the layer and the sum there may be batch norms alone, which multiply and shift. The
    model must be in evaluation mode; it runs no further than the sum.
    """
    mode = _Watcher()
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _module, _args, output: mode.begin(output)
    )
    try:
        with mode:
            run(model, batch)
    except _FoundError:
        pass
    finally:
        handle.remove()
    return mode.found


class _Watcher(TorchFunctionMode):
    """Follows one output through batch norms to a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Shortcut | None = None
        self._followed: Tensor | None = None
        self._scale = torch.ones(())
        self._is_over = False

    def begin(self, output: Tensor) -> None:
        """Follow an output, the first time that there is one."""
        if self._followed is None and not self._is_over:
            self._scale = torch.ones(output.shape[1]).to(output)
            self._followed = output

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
        if self._followed is None or not any(value is self._followed for value in values):
            return func(*args, **given)
        if func is F.batch_norm:
            self._scale = self._scale * _multiplier(*args, **given)
            self._followed = func(*args, **given)
            return self._followed
        if _is_a_value(func):
            self._end(func, values)
        return func(*args, **given)

    def _end(self, func: Callable[..., Any], values: list[Any]) -> None:
        followed, self._followed, self._is_over = self._followed, None, True
        others = [v for v in values if isinstance(v, Tensor) and v is not followed]
        fits = [other for other in others if followed is not None and other.shape == followed.shape]
        if func in _SUMS and len(fits) == len(others) == 1:
            self.found = Shortcut(other=fits[0].clone(), scale=self._scale)
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
