"""One pass of samples through the original model: what its layers read, summed up.

For every layer that reads prunable channels the Gram matrix of its unfolded inputs is accumulated
in float64, batch by batch. No activation outlives its batch, so the memory is that of the matrices:
8 bytes times (inputs of a kernel) squared for each layer and convolution group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Sums over calibration samples.

    Attributes:
        grams: (parts, columns, columns) in float64 for every layer asked for; a part is a
            convolution group, a column an input of its kernel, channel-major.
        samples: How many samples were seen.
    """

    grams: Mapping[str, Tensor]
    samples: int


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


def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    layers: Sequence[str],
    sampling: RowSampling | None = None,
) -> Calibration:
    """Run ``batches`` through ``model`` in evaluation mode and sum up what ``layers`` read.

    The model is left in the mode it had, without hooks, whatever happens.

    Raises:
        ValueError: There is no sample, a layer is no convolution or linear layer or did not run,
            or its inputs are not finite.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in layers if not can_be_repaired(modules.get(name))]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no convolution or linear layer of the model")
    sampling = sampling or RowSampling()
    sums = _Sums(sampling)
    samples = 0
    with evaluating(model), _listening({name: modules[name] for name in layers}, sums):
        for batch in batches:
            samples += len(batch)
            model(batch)
    if samples == 0:
        raise ValueError("there are no calibration samples; give at least one batch")
    silent = [name for name in layers if name not in sums.grams]
    if silent:
        raise ValueError(f"layer {silent[0]!r} did not run on the calibration samples")
    return Calibration(grams=sums.grams, samples=samples)


def can_be_repaired(layer: nn.Module | None) -> bool:
    """Whether a layer's outputs are a matrix product of unfolded inputs."""
    return isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))


def layer_rows(layer: nn.Module, x: Tensor, sampling: Tensor | None = None) -> Tensor:
    """What a layer multiplies with its weights: (parts, rows, columns)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        raise ValueError(f"{type(layer).__name__} is no convolution or linear layer")
    x = _padded(layer, x)
    if isinstance(layer, nn.Conv1d):
        x = x.unsqueeze(-2)
    patches = F.unfold(
        x,
        kernel_size=_two(layer.kernel_size),
        dilation=_two(layer.dilation),
        stride=_two(layer.stride),
    )
    if sampling is not None:
        patches = patches[..., sampling.to(x.device)]
    parts = patches.view(len(patches), layer.groups, -1, patches.shape[-1])
    return parts.permute(1, 0, 3, 2).flatten(1, 2)


def draw_positions(
    layer: nn.Module, x: Tensor, count: int | None, generator: torch.Generator
) -> Tensor | None:
    """``count`` random output positions of a convolution; None for all there are."""
    if count is None or not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return None
    total = _output_positions(layer, _padded(layer, x))
    return None if total <= count else torch.randperm(total, generator=generator)[:count]


class _Sums:
    """Gram matrices that grow with every batch."""

    def __init__(self, sampling: RowSampling) -> None:
        self.grams: dict[str, Tensor] = {}
        self._positions = sampling.positions
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def add(self, name: str, layer: nn.Module, x: Tensor) -> None:
        """Add one batch of a layer's inputs."""
        rows = layer_rows(layer, x, self._sampled(layer, x)).double()
        gram = rows.mT @ rows
        if not gram.isfinite().all():
            raise ValueError(
                f"layer {name!r} reads NaN or infinite values on the calibration samples; "
                "check the samples and the weights before it"
            )
        if name in self.grams:
            self.grams[name] += gram
        else:
            self.grams[name] = gram

    def _sampled(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        return draw_positions(layer, x, self._positions, self._generator)


def _output_positions(layer: nn.Conv1d | nn.Conv2d, padded: Tensor) -> int:
    total = 1
    sizes = padded.shape[2:]
    for size, kernel, stride, dilation in zip(
        sizes, layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        total *= (size - dilation * (kernel - 1) - 1) // stride + 1
    return total


def _padded(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
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


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Sizes of two dimensions; a single dimension is the second."""
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, sizes[0])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _listening(layers: Mapping[str, nn.Module], sums: _Sums) -> Iterator[None]:
    handles = []
    try:
        for name, layer in layers.items():

            def listen(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                sums.add(name, module, args[0])

            handles.append(layer.register_forward_pre_hook(listen))
        yield
    finally:
        for handle in handles:
            handle.remove()
