"""A layer's inputs as the rows of a matrix that its weights are multiplied with."""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
# Rows are unfolded in float64 this many numbers at a time: 256 MiB, and half in float32 beside it.
_CHUNK = 2**25


@dataclass(frozen=True, kw_only=True)
class RowSampling:
    """Which rows of a convolution's unfolded inputs count.

    Attributes:
        positions: How many random positions of a map, the same for all samples of a batch; all
            if None.
        seed: Draws the positions.
    """

    positions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions is {self.positions}; give at least 1, or None for all")


def can_be_repaired(layer: nn.Module | None) -> bool:
    """Whether a layer's outputs are a matrix product of unfolded inputs."""
    return isinstance(layer, (nn.Linear, *_CONVOLUTIONS))


def layer_rows(layer: nn.Module, x: Tensor, sampling: Tensor | None = None) -> Tensor:
    """What a layer multiplies with its weights: (parts, rows, columns).

    Rows are ordered (sample, position); ``sampling`` chooses positions of the output map.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features)
    if not isinstance(layer, _CONVOLUTIONS):
        raise ValueError(f"{type(layer).__name__} is no convolution or linear layer")
    x = _padded(layer, x)
    if sampling is None and isinstance(layer, nn.Conv2d):
        patches = F.unfold(
            x,
            kernel_size=(layer.kernel_size[0], layer.kernel_size[1]),
            dilation=(layer.dilation[0], layer.dilation[1]),
            stride=(layer.stride[0], layer.stride[1]),
        )
    else:
        patches = _patches_at(layer, x, sampling)
    parts = patches.view(len(patches), layer.groups, -1, patches.shape[-1])
    return parts.permute(1, 0, 3, 2).flatten(1, 2)


def draw_positions(
    layer: nn.Module, x: Tensor, count: int | None, generator: torch.Generator
) -> Tensor | None:
    """``count`` random output positions of a convolution; None for all there are."""
    if count is None or not isinstance(layer, _CONVOLUTIONS):
        return None
    total = prod(_output_sizes(layer, _padded(layer, x)))
    return None if total <= count else torch.randperm(total, generator=generator)[:count]


def samples_at_once(layer: nn.Module, x: Tensor, positions: Tensor | None) -> int:
    """How many samples are unfolded together."""
    if not isinstance(layer, _CONVOLUTIONS):
        return max(1, _CHUNK * len(x) // max(1, x.numel()))
    rows = (
        prod(_output_sizes(layer, _padded(layer, x[:1]))) if positions is None else len(positions)
    )
    return max(1, _CHUNK // max(1, rows * x.shape[1] * prod(layer.kernel_size)))


def _patches_at(layer: _AnyConv, padded: Tensor, positions: Tensor | None) -> Tensor:
    """What the kernel covers at some output positions: (samples, columns, positions)."""
    outputs = _output_sizes(layer, padded)
    if positions is None:
        positions = torch.arange(prod(outputs))
    index = torch.zeros(1, len(positions), dtype=torch.long)
    for axis, size in enumerate(outputs):
        place = positions // prod(outputs[axis + 1 :]) % size
        reach = torch.arange(layer.kernel_size[axis])[:, None] * layer.dilation[axis]
        along = place * layer.stride[axis] + reach
        index = (index[:, None] * padded.shape[2 + axis] + along).flatten(0, 1)
    return padded.flatten(2)[..., index.to(padded.device)].flatten(1, 2)


def _output_sizes(layer: _AnyConv, padded: Tensor) -> tuple[int, ...]:
    return tuple(
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    )


def _padded(layer: _AnyConv, x: Tensor) -> Tensor:
    amounts: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        if layer.padding == "same":
            amounts += [reach // 2, reach - reach // 2]
        elif layer.padding == "valid":
            amounts += [0, 0]
        else:
            amounts += [int(layer.padding[axis])] * 2
    if not any(amounts):
        return x
    return F.pad(
        x, amounts, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode
    )


def check_input(name: str, layer: nn.Module, x: object) -> None:
    """Refuse what a layer cannot be unfolded on."""
    given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if isinstance(layer, nn.Linear):
        fits = isinstance(x, Tensor) and x.dim() >= 1 and x.shape[-1] == layer.in_features
        wanted = f"(..., {layer.in_features})"
    else:
        dims = len(layer.kernel_size) if isinstance(layer, _CONVOLUTIONS) else 0
        inputs = layer.in_channels if isinstance(layer, _CONVOLUTIONS) else 0
        fits = isinstance(x, Tensor) and x.dim() == 2 + dims and x.shape[1] == inputs
        wanted = f"(samples, {inputs}, {', '.join(['size'] * dims)})"
    if not fits:
        raise ValueError(f"layer {name!r} reads {given}; samples must make it read {wanted}")
