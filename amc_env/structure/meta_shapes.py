"""Results of operations on torch's meta device whose shape is plain arithmetic.

Torch takes many operations apart in slow Python there, at 5 to 50 times the price of an addition,
and imports its compiler for it, only to find a shape that is known beforehand.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What gives back the shape and the type of a floating-point tensor, of all other arguments
# whatever.
_SHAPE_KEEPING = (
    "batch_norm instance_norm relu relu6 leaky_relu elu selu celu gelu silu mish hardswish "
    "hardsigmoid hardtanh sigmoid tanh softplus dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_alpha_dropout"
)
_KEEP_SHAPE = frozenset(_SHAPE_KEEPING.split())
_KEEP_SHAPE_OF_EQUALS = frozenset({"add", "sub", "mul"})
_CONVOLUTIONS = {f"conv{spatial}d": spatial for spatial in (1, 2, 3)}
# The arguments of a convolution: the two that have to be given, bias, stride, padding, dilation
# and groups.
_CONVOLUTION = (None, None, None, 1, 0, 1, 1)


def known_result(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """A meta tensor like the result of a call by its plain name; None if torch has to be asked."""
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.is_meta or not first.is_floating_point():
        return None
    if name in _CONVOLUTIONS:
        shape = None if kwargs else _convolved(_CONVOLUTIONS[name], args)
        # Tensor.new_empty is taken apart in Python as well; torch.empty is not.
        return None if shape is None else torch.empty(shape, dtype=first.dtype, device=first.device)
    if name in _KEEP_SHAPE or (name in _KEEP_SHAPE_OF_EQUALS and _are_alike(args)):
        return first.clone()
    return None


def _are_alike(args: tuple[Any, ...]) -> bool:
    first, second = args[0], args[1] if len(args) > 1 else None
    return isinstance(second, Tensor) and (second.shape, second.dtype) == (first.shape, first.dtype)


def _convolved(spatial: int, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The shape of a convolution's result; None if torch would refuse it, or for padding words."""
    given: list[Any] = [*args, *_CONVOLUTION[len(args) :]]
    x, weight, bias, stride, padding, dilation, groups = given
    if isinstance(padding, str) or not _fit(x, weight, bias, groups):
        return None
    settings = (_spread(value, spatial) for value in (stride, padding, dilation))
    sizes = [
        (size + 2 * added - step * (kernel - 1) - 1) // by + 1
        for size, kernel, by, added, step in zip(
            x.shape[2:], weight.shape[2:], *settings, strict=True
        )
    ]
    return (x.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> bool:
    return (
        x.dim() == weight.dim()
        and x.dtype == weight.dtype
        and weight.is_meta
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and (bias is None or bias.shape == weight.shape[:1])
    )


def _spread(value: Any, spatial: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * spatial if len(values) == 1 else values
