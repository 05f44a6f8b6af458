"""Proof by values that a cut network computes what the original does without the channels.

Shapes and channel ids show which channels reach a layer, not what code does with their number.
``x[:, : x.shape[1] // 2].relu()`` or ``x / x.shape[1] ** 0.5`` runs with any number of channels and
gives other values. So the original is run with the channels silenced, that is, with zero weights
wherever a layer reads them, and must agree with the network from which they are cut.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, count, first, first_tensor, mapped, moved, tensors_in
from amc_env.devices import solving_device
from amc_env.structure.cutting import Indices, cut_copy, keep_mask
from amc_env.structure.module_copy import Template, copy_module
from amc_env.structure.naming import named_tensors
from amc_env.structure.records import Structure
from amc_env.structure.search import Failure, failing_groups
from amc_env.structure.watching import Watch

_LOG = logging.getLogger(__name__)
_WHAT = "comparing the values of cut networks"
# Two samples show what mixes samples, at a fraction of a large batch's price.
_SAMPLES = 2
# What an image is cropped to: larger ones show nothing more at tens of times the price.
_PIXELS = 64
_STRIDES = 32
_IMAGE_DIMS = 4
# Rounding differs between a cut and a silenced network because their sums have other orders.
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-7}
# For the rare network that only runs in single precision: a wrong cut differs by several percent.
_COARSE = 1e-2


def value_refusals(
    model: nn.Module, inputs: Batch, structure: Structure, *, calls: Sequence[str]
) -> dict[str, str] | None:
    """The reason for every group whose cut changes values, by name; None if it does not run.

    Norms over channels take other statistics without a channel, so their groups are not compared.
    A network that gives different values when it is run twice is not compared either.

    Args:
        model: The network, which is copied.
        inputs: Real inputs for it.
        structure: What was found in it, with the groups to compare.
        calls: The names of the torch calls that it made on ``inputs``.
    """
    names = [group.name for group in structure.groups if not group.has_channel_norm]
    if not names or any(tensor.is_meta for _, tensor in named_tensors(model)):
        return {}
    setting = _Setting(model=model, inputs=inputs, structure=structure, calls=list(calls))
    with torch.no_grad():
        # Single precision is several times faster and nearly always enough to pass.
        proof = setting.proof(torch.float32, names)
        if proof is None or proof.passes(names):
            return None if proof is None else {}
        if not proof.is_deterministic():
            _LOG.info("the network is random in evaluation mode: values are not compared")
            return {}
        # To refuse takes double precision, in which rounding cannot be mistaken for a wrong cut,
        # not even behind a top-k or a threshold that rounding tips over.
        exact = setting.proof(torch.float64, names) or replace(proof, tolerance=_COARSE)
        return exact.refusals(names)


@contextmanager
def own_randomness(inputs: Batch) -> Iterator[None]:
    """Leave the random state of the CPU and of the inputs' devices as it was."""
    devices = sorted({x.device.index or 0 for x in tensors_in(inputs) if x.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class _Setting:
    """What is compared, before a precision is chosen."""

    model: nn.Module
    inputs: Batch
    structure: Structure
    calls: list[str]

    def proof(self, dtype: torch.dtype, names: Sequence[str]) -> "_Proof | None":
        """A proof for groups on as small an input as will do; None if the network does not run."""
        # Both precisions run in the same place, which on mps can only be the CPU.
        device = solving_device(first_tensor(self.inputs).device)
        template = Template(_uneven_copy(self.model, self.structure, device, dtype))
        for inputs in self._inputs():
            varied = mapped(partial(_varied, dtype=dtype), moved(inputs, device))
            proof = _Proof(
                template=template,
                inputs=varied,
                structure=self.structure,
                tolerance=_TOLERANCES[dtype],
            )
            try:
                # What the proof begins with anyway shows as well whether it can be run.
                seen = proof.silenced(proof.mask(names, _lower))
            except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
                _LOG.info("values are not compared on %d samples: %s", count(varied), error)
                continue
            # On images of another size a forward may take another way, which proves nothing.
            if inputs is self.inputs or seen.calls == self.calls:
                return replace(proof, lower=seen.values)
        return None

    def _inputs(self) -> Iterator[Batch]:
        few = first(self.inputs, _SAMPLES)
        if any(_cropped(x).numel() < x.numel() for x in tensors_in(few)):
            yield mapped(_cropped, few)
        if count(few) != count(self.inputs):
            yield few
        yield self.inputs


def _cropped(x: Tensor) -> Tensor:
    """The middle of images: some 64 pixels, with the same remainders as the whole at any stride."""
    if x.dim() < _IMAGE_DIMS:
        return x
    for dim in (-2, -1):
        size = min(x.shape[dim], _PIXELS + x.shape[dim] % _STRIDES)
        x = x.narrow(dim, (x.shape[dim] - size) // 2, size)
    return x


def _varied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The input in another precision; random values where it is the same everywhere."""
    if not x.is_floating_point():
        return x
    if bool((x == x.flatten()[0]).all()):
        # On an image of zeros most layers only add up biases, and wrong cuts can go unseen.
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    return x.to(dtype)


def _uneven_copy(
    model: nn.Module, structure: Structure, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A copy in evaluation mode in which no cut parameter holds one value everywhere.

    It shares all other values with the model, so it is to be copied again before it is run: a
    forward may write into its parameters and buffers, which must not be the model's own.
    """
    cut = {axis.tensor for axis in structure.axes}
    own = named_tensors(model)
    even = [t for name, t in own if name in cut and _is_even(t.detach())]
    # A branch that starts at zero, such as the last norm of a residual block, hides every
    # difference behind it; norms that start at one hide that a channel was taken for another.
    total = torch.rand(sum(t.numel() for t in even), generator=torch.Generator().manual_seed(1))
    parts = (0.25 + 0.5 * total).split([t.numel() for t in even])
    uneven = {id(t): part.view(t.shape) for t, part in zip(even, parts, strict=True)}
    memo: dict[int, object] = {}
    for _, tensor in own:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        values = uneven.get(id(tensor), tensor.detach()).to(device, kind)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(values, requires_grad=False) if is_parameter else values
    return copy_module(model, memo).eval()


def _is_even(values: Tensor) -> bool:
    """Whether a tensor of several entries holds one value everywhere."""
    if values.numel() < 2:
        return False
    first, last = values[(0,) * values.dim()], values[(-1,) * values.dim()]
    # Two entries tell nearly all weights, at a fraction of the price of looking at all of them.
    return bool(first == last) and bool((values == first).all())


class _Seen(NamedTuple):
    """The values of every layer and output by the name of the weight, and all torch calls."""

    values: list[tuple[str, Tensor]]
    calls: list[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Proof:
    """Compares cut networks with silenced ones, layer by layer.

    The first layer that differs tells where a cut goes wrong. At the output alone a small
    difference may have vanished, and nothing would say which group it came from.
    """

    template: Template
    inputs: Batch
    structure: Structure
    tolerance: float
    lower: list[tuple[str, Tensor]] | None = None

    def run(self, model: nn.Module, mask: Tensor | None = None) -> "_Seen":
        """The values of every layer in the order of execution, then those of the outputs.

        Channels that a mask over labels leaves out are silenced and so not compared.
        """
        watch = Watch(model, self.structure, mask)
        with watch:
            outputs = call(model, self.inputs)
        rest = [("", out.detach().flatten()[None]) for out in tensors_in(outputs)]
        return _Seen([*watch.seen, *rest], watch.calls)

    def silenced(self, mask: Tensor) -> "_Seen":
        """What the original does without the channels that a mask over labels leaves out."""
        return self.run(_silenced(self.template, self.structure, mask), mask)

    def mask(self, names: Collection[str], half: "_Half") -> Tensor:
        """A mask over labels that keeps half the channels of some groups."""
        kept = {g.name: half(g.channels) for g in self.structure.groups if g.name in names}
        return keep_mask(self.structure, kept)

    def passes(self, names: Sequence[str]) -> bool:
        """Whether all groups together can be cut, at either end."""
        return (
            self.failure(names, half=_lower, expected=self.lower) is None
            and self.failure(names, half=_upper) is None
        )

    def is_deterministic(self) -> bool:
        """Whether the original gives the same values twice."""
        once, again = (self.run(self.template.copy({})) for _ in range(2))
        return self._difference(once.values, again.values) is None

    def refusals(self, names: Sequence[str]) -> dict[str, str]:
        """The reason for every group that has to stay whole."""
        refused: dict[str, str] = {}
        for half in _HALVES:
            left = [name for name in names if name not in refused]
            trial = partial(self.failure, half=half)
            refused |= failing_groups(left, trial, what=_WHAT)
        return refused

    def failure(
        self,
        names: Sequence[str],
        *,
        half: "_Half",
        expected: list[tuple[str, Tensor]] | None = None,
    ) -> Failure | None:
        """Where the network without half the channels of some groups differs; None if nowhere.

        Args:
            names: The groups.
            half: Which half of their channels stays.
            expected: The values that the network must have, where they are known already.
        """
        _LOG.info("%s: %d groups are cut together", _WHAT, len(names))
        chosen = set(names)
        mask = self.mask(chosen, half)
        try:
            expected = expected or self.silenced(mask).values
            got = self.run(cut_copy(self.template, self.structure, mask)).values
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


def _silenced(template: Template, structure: Structure, kept: Tensor) -> nn.Module:
    """A copy with zero weights wherever a layer reads channels outside the mask over labels."""
    tensors = template.tensors
    labels = {(axis.tensor, axis.dim): axis.labels for axis in structure.axes}
    # A depthwise convolution has no axis of inputs: it passes each channel on, for others to read.
    read = {(x.weight, 1 - x.output_dim) for x in structure.layers if x.weight is not None}
    gone = Indices(~kept)
    changed: dict[str, Tensor] = {}
    for name, dim in sorted(read & labels.keys()):
        index = gone.along(labels[name, dim])
        if index.numel():
            weight = changed.get(name, tensors[name].detach())
            changed[name] = weight.index_fill(dim, index.to(weight.device), 0.0)
    memo: dict[int, object] = {}
    for name, weight in changed.items():
        is_parameter = isinstance(tensors[name], nn.Parameter)
        memo[id(tensors[name])] = nn.Parameter(weight) if is_parameter else weight
    return template.copy(memo)
