"""Proof by values that a cut network computes what the original does without the channels.

Shapes and channel ids show which channels reach a layer, not what code does with their number.
``x[:, : x.shape[1] // 2].relu()`` or ``x / x.shape[1] ** 0.5`` runs with any number of channels and
gives other values. So the original is run with the channels silenced, that is, with zero weights
wherever a layer reads them, and must agree with the network from which they are cut.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import Batch, call, count, first, first_tensor, mapped, moved, tensors_in
from amc_env.devices import solving_device
from amc_env.structure.cutting import cut_channels, keep_mask, named_tensors
from amc_env.structure.records import Structure
from amc_env.structure.search import Failure, failing_groups

_LOG = logging.getLogger(__name__)
_WHAT = "comparing the values of cut networks"
# Two samples show what mixes samples, at a fraction of a large batch's price.
_SAMPLES = 2
# Positions of a layer's output that are compared; a wrong cut is seen at nearly all of them.
_POSITIONS = 256
# Rounding differs between a cut and a silenced network because their sums have other orders.
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-7}
# For the rare network that only runs in single precision: a wrong cut differs by several percent.
_COARSE = 1e-2


def value_refusals(model: nn.Module, inputs: Batch, structure: Structure) -> dict[str, str] | None:
    """The reason for every group whose cut changes values, by name; None if it does not run.

    Norms over channels take other statistics without a channel, so their groups are not compared.
    A network that gives different values when it is run twice is not compared either.

    Args:
        model: A copy of the network in evaluation mode that is used for nothing else.
        inputs: Real inputs for it.
        structure: What was found in it, with the groups to compare.
    """
    names = [group.name for group in structure.groups if not group.has_channel_norm]
    if not names or any(tensor.is_meta for _, tensor in named_tensors(model)):
        return {}
    # Both precisions run in the same place, which on mps can only be the CPU.
    device = solving_device(first_tensor(inputs).device)
    model, inputs = model.to(device), moved(inputs, device)
    with torch.no_grad():
        # Single precision is several times faster and nearly always enough to pass.
        proof = _prepared(model, inputs, structure, torch.float32)
        if proof is None or proof.passes(names):
            return None if proof is None else {}
        if not proof.is_deterministic():
            _LOG.info("the network is random in evaluation mode: values are not compared")
            return {}
        # To refuse takes double precision, in which rounding cannot be mistaken for a wrong cut,
        # not even behind a top-k or a threshold that rounding tips over.
        exact = _prepared(model, inputs, structure, torch.float64)
        if exact is None:
            model.float()
            exact = replace(proof, tolerance=_COARSE)
        return exact.refusals(names)


@contextmanager
def own_randomness(inputs: Batch) -> Iterator[None]:
    """Leave the random state of the CPU and of the inputs' devices as it was."""
    devices = sorted({x.device.index or 0 for x in tensors_in(inputs) if x.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield


def _prepared(
    model: nn.Module, inputs: Batch, structure: Structure, dtype: torch.dtype
) -> "_Proof | None":
    """A proof on few samples, or on all where few do not fit; None if the network cannot be run."""
    varied = mapped(partial(_varied, dtype=dtype), inputs)
    few = first(varied, _SAMPLES)
    _to_uneven_(model.to(dtype), structure)
    for given in (few, varied) if count(few) != count(varied) else (varied,):
        proof = _Proof(model=model, inputs=given, structure=structure, tolerance=_TOLERANCES[dtype])
        try:
            proof.run(model)
        except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
            _LOG.info("values are not compared on %d samples: %s", count(given), error)
            continue
        return proof
    return None


def _varied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The input in another precision; random values where it is the same everywhere."""
    if not x.is_floating_point():
        return x
    if bool((x == x.flatten()[0]).all()):
        # On an image of zeros most layers only add up biases, and wrong cuts can go unseen.
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    return x.to(dtype)


def _to_uneven_(model: nn.Module, structure: Structure) -> None:
    """Give parameters that hold one value everywhere uneven values, on axes that are cut."""
    # A branch that starts at zero, such as the last norm of a residual block, hides every
    # difference behind it; norms that start at one hide that a channel was taken for another.
    generator = torch.Generator().manual_seed(1)
    tensors = dict(named_tensors(model))
    for name in dict.fromkeys(axis.tensor for axis in structure.axes):
        tensor = tensors[name]
        if tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            values = 0.25 + 0.5 * torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values)


@dataclass(frozen=True, kw_only=True)
class _Proof:
    """Compares cut networks with silenced ones, layer by layer.

    The first layer that differs tells where a cut goes wrong. At the output alone a small
    difference may have vanished, and nothing would say which group it came from.
    """

    model: nn.Module
    inputs: Batch
    structure: Structure
    tolerance: float

    def run(self, model: nn.Module, silenced: Tensor | None = None) -> list[tuple[str, Tensor]]:
        """The values of every layer in the order of execution, then those of the outputs."""
        watch = _Watch(model, self.structure, silenced)
        silence = nullcontext() if silenced is None else _silence(model, self.structure, silenced)
        with silence, watch:
            outputs = call(model, self.inputs)
        rest = [("", out.detach().flatten()[None]) for out in tensors_in(outputs)]
        return [*watch.seen, *rest]

    def passes(self, names: Sequence[str]) -> bool:
        """Whether all groups together can be cut, at either end."""
        return all(self.failure(names, half=half) is None for half in _HALVES)

    def is_deterministic(self) -> bool:
        """Whether the original gives the same values twice."""
        return self._difference(self.run(self.model), self.run(self.model)) is None

    def refusals(self, names: Sequence[str]) -> dict[str, str]:
        """The reason for every group that has to stay whole."""
        refused: dict[str, str] = {}
        for half in _HALVES:
            left = [name for name in names if name not in refused]
            trial = partial(self.failure, half=half)
            refused |= failing_groups(left, trial, what=_WHAT)
        return refused

    def failure(self, names: Sequence[str], *, half: "_Half") -> Failure | None:
        """Where the network without half the channels of these groups differs; None if nowhere."""
        _LOG.info("%s: %d groups are cut together", _WHAT, len(names))
        chosen = set(names)
        mask = keep_mask(
            self.structure,
            {g.name: half(g.channels) for g in self.structure.groups if g.name in chosen},
        )
        try:
            expected = self.run(self.model, silenced=mask)
            got = self.run(cut_channels(self.model, self.structure, mask))
        except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Failure(reason=f"a cut network fails on real values: {lines[0]}")
        where = self._difference(expected, got)
        if where is None:
            return None
        place = f"at {where.rpartition('.')[0] or where}" if where else "at the output"
        reason = (
            "the network computes with the number or the places of these channels: a cut network "
            f"gives other values than the original without them ({place})"
        )
        return Failure(reason=reason, suspects=self._readers(where) & chosen)

    def _difference(
        self, expected: Sequence[tuple[str, Tensor]], got: Sequence[tuple[str, Tensor]]
    ) -> str | None:
        """The first weight whose layer differs, empty for an output; None if all is equal."""
        for (name, one), (other_name, other) in zip(expected, got, strict=False):
            if name != other_name or not _is_close(one, other, self.tolerance):
                return name
        return None if len(expected) == len(got) else ""

    def _readers(self, weight: str) -> frozenset[str]:
        """The groups on the axes of a weight."""
        labels = [axis.labels for axis in self.structure.axes if axis.tensor == weight]
        near = set(torch.cat(labels).tolist()) if labels else set()
        return frozenset(
            name
            for name, own in self.structure.classes.items()
            if not near.isdisjoint(own.tolist())
        )


_Half = Callable[[int], Tensor]


def _lower(channels: int) -> Tensor:
    return torch.arange((channels + 1) // 2)


def _upper(channels: int) -> Tensor:
    return torch.arange(channels // 2, channels)


# Half the channels leave enough for a difference to show. Code that treats a share of the
# channels apart may agree with a cut at one end, such as a slice that starts at the first.
_HALVES: tuple[_Half, ...] = (_lower, _upper)


def _is_close(expected: Tensor, got: Tensor, tolerance: float) -> bool:
    if expected.shape != got.shape:
        return False
    # Where both overflow there is nothing to compare; where only one does, they differ.
    one, other = (torch.nan_to_num(x.double(), 0.0, 0.0, 0.0) for x in (expected, got))
    # Written so that a difference which is itself not a number does not pass.
    return bool((one - other).norm() <= tolerance * one.norm())


@contextmanager
def _silence(model: nn.Module, structure: Structure, kept: Tensor) -> Iterator[None]:
    """Zero the weights that read channels outside the mask over labels, and restore them."""
    tensors = dict(named_tensors(model))
    labels = {(axis.tensor, axis.dim): axis.labels for axis in structure.axes}
    # A depthwise convolution has no axis of inputs: it passes each channel on, for others to read.
    read = {(x.weight, 1 - x.output_dim) for x in structure.layers if x.weight is not None}
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for name, dim in sorted(read & labels.keys()):
            gone = (~kept[labels[name, dim]]).nonzero().flatten()
            if len(gone):
                saved.append((tensors[name], tensors[name].clone()))
                tensors[name].index_fill_(dim, gone.to(tensors[name].device), 0.0)
        yield
    finally:
        for weight, values in saved:
            weight.copy_(values)


_LAYERS = frozenset(
    {"linear", *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3))}
)


class _Watch(TorchFunctionMode):
    """Notes the output of every conv and linear layer.

    Args:
        silenced: Mask over labels, false for channels that are silenced and so not compared; None
            for a network that is run as it is.
    """

    def __init__(self, model: nn.Module, structure: Structure, silenced: Tensor | None) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor]] = []
        self._names = {id(tensor): name for name, tensor in reversed(named_tensors(model))}
        self._labels: Mapping[tuple[str, int], Tensor] = {
            (axis.tensor, axis.dim): axis.labels for axis in structure.axes
        }
        self._mask = silenced

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        called = getattr(func, "__name__", "")
        weight = args[1] if len(args) > 1 else given.get("weight")
        name = self._names.get(id(weight)) if called in _LAYERS else None
        if name is None or not isinstance(weight, Tensor):
            return out
        transposed = "transpose" in called
        # A linear layer's channels lie along the last dimension, and so do those of a weight of
        # two dimensions in general; a convolution's lie before the dimensions of its kernel.
        rows = out.movedim(1 - weight.dim(), 0).flatten(1)
        self.seen.append((name, self._kept_rows(name, _sampled(rows), transposed=transposed)))
        return out

    def _kept_rows(self, name: str, rows: Tensor, *, transposed: bool) -> Tensor:
        """The rows of channels that stay, of a network in which nothing is cut."""
        dense = (name, 1) in self._labels
        labels = self._labels.get((name, 1 if transposed and dense else 0))
        if self._mask is None or labels is None:
            return rows
        times = len(rows) // len(labels)
        # The parts of a grouped transposed convolution share the axis of its outputs.
        spread = labels.repeat(times) if dense else labels.repeat_interleave(times)
        return rows[self._mask[spread].to(rows.device)]


def _sampled(rows: Tensor) -> Tensor:
    """Evenly spaced positions, so that no layer of a large image is held whole."""
    count = rows.shape[1]
    if count <= _POSITIONS:
        return rows.clone()
    where = torch.linspace(0, count - 1, _POSITIONS, device="cpu").long()
    return rows[:, where.to(rows.device)]
