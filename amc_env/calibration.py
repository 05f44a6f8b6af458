"""One pass of samples through the original model: what its layers read, summed up.

For every layer that reads prunable channels the Gram matrix of its unfolded inputs is accumulated
in float64, batch by batch. No activation outlives its batch, so the memory is that of the matrices,
8 bytes times (inputs of a kernel) squared for each layer and convolution group, and at most about
half a gigabyte to unfold in. Single groups' activations are streamed by ``group_activations``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.structure import ChannelGroup, Member

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
# Rows are unfolded in float64 this many numbers at a time: 256 MiB, and half in float32 beside it.
_CHUNK = 2**25


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
        ValueError: There is no sample, the model cannot read the samples, a layer is no convolution
            or linear layer or did not run, or its inputs are not finite.
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
            samples += _checked(batch).shape[0]
            _run(model, batch)
    if samples == 0:
        raise ValueError("there are no calibration samples; give at least one batch")
    silent = [name for name in layers if name not in sums.grams]
    if silent:
        raise ValueError(f"layer {silent[0]!r} did not run on the calibration samples")
    return Calibration(grams=sums.grams, samples=samples)


def group_activations(
    model: nn.Module,
    group: ChannelGroup,
    batches: Iterable[Tensor],
    *,
    consumer: str | None = None,
) -> Iterator[Tensor]:
    """A group's activations as a consumer really reads them: (samples, channels, ...) a batch.

    What follows the channels is the consumer's map. A channel with several places (one a pixel
    behind a flatten, one a part in a grouped convolution) has them as a dimension before the map.
    The model runs in evaluation mode and no further than the consumer; a consumer that runs twice
    is heard the first time. Nothing is kept between batches, and the model has its own modes and
    no hook whenever a batch is handed out. The order is that of ``batches``, so labels may be
    zipped with them.

    Args:
        model: The model that the group is of.
        group: Whose channels.
        batches: Samples.
        consumer: Name of the consumer; the first if None.

    Raises:
        ValueError: The group has no such consumer, there is no sample in a batch, or what the
            consumer reads is not finite.
    """
    member = _reader(group, consumer)
    layer = dict(model.named_modules()).get(member.module)
    if layer is None:
        raise ValueError(f"the model has no layer {member.module!r}; give the group's own model")
    return (_places(member, layer, _read(model, member, layer, batch)) for batch in batches)


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


class _Sums:
    """Gram matrices that grow with every batch."""

    def __init__(self, sampling: RowSampling) -> None:
        self.grams: dict[str, Tensor] = {}
        self._positions = sampling.positions
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def add(self, name: str, layer: nn.Module, x: Tensor) -> None:
        """Add one batch of a layer's inputs."""
        _check_input(name, layer, x)
        positions = self._sampled(layer, x)
        for samples in x.split(_samples_at_once(layer, x, positions)):
            rows = layer_rows(layer, samples, positions).double()
            gram = rows.mT @ rows
            if name in self.grams:
                self.grams[name] += gram
            else:
                self.grams[name] = gram
        if not self.grams[name].isfinite().all():
            raise ValueError(
                f"layer {name!r} reads NaN or infinite values on the calibration samples; "
                "check the samples and the weights before it"
            )

    def _sampled(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        return draw_positions(layer, x, self._positions, self._generator)


def _samples_at_once(layer: nn.Module, x: Tensor, positions: Tensor | None) -> int:
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


def _check_input(name: str, layer: nn.Module, x: object) -> None:
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


def _checked(batch: object) -> Tensor:
    if not isinstance(batch, Tensor):
        raise ValueError(
            f"a calibration batch is a {type(batch).__name__}; give tensors of samples, "
            "without their labels"
        )
    if batch.dim() == 0 or batch.numel() == 0:
        raise ValueError(
            f"a calibration batch has the shape {tuple(batch.shape)}; give at least one sample"
        )
    return batch


def _run(model: nn.Module, batch: Tensor) -> None:
    try:
        model(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot run on calibration samples of shape {tuple(batch.shape)} and type "
            f"{batch.dtype}; give them as it was trained on ({error})"
        ) from error


class _ReachedError(Exception):
    """Ends a run at the layer it is for."""


def _read(model: nn.Module, member: Member, layer: nn.Module, batch: Tensor) -> Tensor:
    """What ``layer`` reads when ``model`` runs, which goes no further."""
    seen: list[Tensor] = []

    def listen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_input(args, kwargs))
        raise _ReachedError

    handle = layer.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        with evaluating(model):
            _run(model, _checked(batch))
    except _ReachedError:
        pass
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f"layer {member.module!r} did not run on the calibration samples")
    if not seen[0].isfinite().all():
        raise ValueError(f"layer {member.module!r} reads NaN or infinite values; check the samples")
    return seen[0]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A layer's input, however it was passed."""
    given: Tensor = args[0] if args else kwargs["input"]
    return given


def _reader(group: ChannelGroup, consumer: str | None) -> Member:
    names = [member.module for member in group.consumers]
    if not names:
        raise ValueError(f"no layer reads group {group.name!r}")
    if consumer is not None and consumer not in names:
        raise ValueError(
            f"group {group.name!r} is not read by {consumer!r}; its consumers are "
            f"{', '.join(names)}"
        )
    return group.consumers[names.index(consumer) if consumer is not None else 0]


def _places(member: Member, layer: nn.Module, x: Tensor) -> Tensor:
    """A group's channels of a layer's input: (samples, channels, [places,] ...)."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    channels_first = x.movedim(axis, 1)
    chosen = channels_first[:, member.positions.to(x.device)]
    return chosen.squeeze(2) if member.positions.shape[1] == 1 else chosen


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

            def listen(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                name: str = name,
            ) -> None:
                sums.add(name, module, _input(args, kwargs))

            handles.append(layer.register_forward_pre_hook(listen, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
