"""A layer's inputs as the rows of a matrix that its weights are multiplied with.

Unfolded rows are the largest tensors of a calibration: a 3x3 kernel makes nine numbers of every
input, in float64 besides. ``row_chunks`` therefore unfolds a few samples at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.devices import solving_device

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
# At most this many numbers are unfolded at a time: 256 MiB in float64, beside 128 MiB in float32.
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
    """The unfolded inputs that a layer multiplies with its weights: (parts, rows, columns).

    A part is a convolution group, a column one input of the kernel, and rows are ordered by sample,
    then by position of the output map. ``sampling`` holds the positions that count; all if None.
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


def pixels_under(layer: nn.Module, x: Tensor, positions: Tensor | None) -> Tensor | None:
    """The flat index of every pixel under the kernel: (positions, kernel); None for linear layers.

    ``positions`` are those of the output map that count; all if None. Pixels of the padding that
    hold zero are -1.
    """
    if not isinstance(layer, _CONVOLUTIONS):
        return None
    # The layer pads a map of numbers as it pads its inputs, whatever its way of padding.
    numbers = torch.arange(1, prod(x.shape[2:]) + 1, dtype=torch.float64).view(1, 1, *x.shape[2:])
    return _patches_at(layer, _padded(layer, numbers), positions)[0].mT.long() - 1


def rows_at(layer: nn.Module, x: Tensor, pixels: Tensor | None) -> Tensor:
    """``layer_rows`` at some pixels, columns with the channel last: (parts, rows, columns).

    ``pixels`` is ``pixels_under`` the layer at the positions that count. Of images whose channels
    are last in memory, all channels of a pixel are read in one piece. ``kernel_first`` brings
    weights into the order of these columns.
    """
    if pixels is None:
        return x.reshape(1, -1, x.shape[-1])
    flat = pixels.flatten()
    read = x.flatten(2).mT.index_select(1, flat.clamp_min(0).to(x.device))
    read.index_fill_(1, (flat < 0).nonzero().flatten().to(x.device), 0.0)
    parts = int(getattr(layer, "groups", 1))
    by_part = read.view(-1, pixels.shape[1], parts, x.shape[1] // parts)
    return by_part.permute(2, 0, 1, 3).flatten(2)


def kernel_first(weight: Tensor) -> Tensor:
    """A layer's weight with one row for each output, its columns in the order of ``rows_at``."""
    return weight.flatten(2).mT.flatten(1) if weight.dim() > 2 else weight


def row_chunks(
    layer: nn.Module, x: Tensor, positions: Tensor | None, *, outputs: int = 0
) -> Iterator[Tensor]:
    """``layer_rows`` in float64, a few samples at a time, where float64 can be computed with.

    A chunk holds at most 2**25 numbers, or the rows of one sample if those are more; ``outputs``
    keeps a target of that many columns, made for the same rows, below the same limit.
    """
    device = solving_device(x.device)
    for samples in x.split(samples_at_once(layer, x, positions, outputs=outputs)):
        # In two steps: a device without float64 cannot convert on the way either. Nothing here
        # refers to a chunk once it is yielded, so that the caller can free it before the next.
        yield layer_rows(layer, samples, positions).to(device).double()


def count_positions(layer: nn.Module, x: Tensor) -> int | None:
    """How many output positions of a convolution there are to draw from; None for other layers."""
    if not isinstance(layer, _CONVOLUTIONS):
        return None
    return prod(_output_sizes(layer, _padded(layer, x[:1])))


def draw_positions(
    total: int | None, count: int | None, generator: torch.Generator
) -> Tensor | None:
    """``count`` random positions out of ``total``; None where all there are count."""
    if count is None or total is None or total <= count:
        return None
    # A copy, as the slice would keep the whole permutation in memory.
    return torch.randperm(total, generator=generator)[:count].clone()


def samples_at_once(
    layer: nn.Module, x: Tensor, positions: Tensor | None, *, outputs: int = 0
) -> int:
    """How many samples are unfolded together."""
    if isinstance(layer, _CONVOLUTIONS):
        total = count_positions(layer, x) if positions is None else len(positions)
        rows, columns = total or 1, x.shape[1] * prod(layer.kernel_size)
    else:
        rows, columns = x.numel() // max(1, len(x) * x.shape[-1]), x.shape[-1]
    return max(1, _CHUNK // max(1, rows * max(columns, outputs)))


def _patches_at(layer: _AnyConv, padded: Tensor, positions: Tensor | None) -> Tensor:
    """The inputs under the kernel at some output positions: (samples, columns, positions).

    ``F.unfold`` would unfold all positions first, and knows two dimensions only. Here the flat
    index of every input under the kernel is worked out axis by axis, and one indexing reads them.
    """
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
    """Refuse an input that a layer cannot be unfolded on."""
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
