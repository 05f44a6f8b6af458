"""Runs a model once with channel ids carried beside its tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import tensors_in
from amc_env.structure.channel_ids import along, narrow_repeats
from amc_env.structure.ledger import ChannelMismatchError, Ledger
from amc_env.structure.meta_shapes import known_result
from amc_env.structure.naming import named_modules, tensors_of


@dataclass(frozen=True)
class Call:
    """One torch call that the model made.

    Attributes:
        name: Name without the marks of an in-place or reflected form.
        out: What the call returned.
        outputs: All tensors among that.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any
    outputs: list[Tensor]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument, however it was passed."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def subject(self) -> Tensor:
        """The tensor that the call is about."""
        subject = self.arg(0, "input", self.kwargs.get("self"))
        if not isinstance(subject, Tensor):
            raise TypeError(f"{self.name} was called without a tensor")
        return subject

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, also those inside lists."""
        given = (*self.args, *self.kwargs.values()) if self.kwargs else self.args
        return list(tensors_in(given))


Handler = Callable[["Tracer", Call], None]


class _Carried(NamedTuple):
    """The ids beside a tensor.

    Attributes:
        tensor: Kept beside its ids so that its id() is not given to another.
        ids: One id for each place, or for each index along ``dim`` if that is not None.
        dim: The only dimension along which ids lie, as they nearly always do; None if there may
            be several.
    """

    tensor: Tensor
    ids: Tensor
    dim: int | None


class Tracer(TorchFunctionMode):
    """Follows channels through every torch call of one model.

    Args:
        model: The model that is run while the tracer is active.
        ledger: What is told of the channels met.
        handlers: What each operation does to channel ids, by name.
        batch: Number of samples that are run at once.
        ignored: Names of modules whose output channels stay.

    Attributes:
        calls: The names of the torch calls that the model made, in their order.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ledger: Ledger,
        handlers: Mapping[str, Handler],
        batch: int,
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self.batch = batch
        self.modules = named_modules(model)
        self._handlers = handlers
        self._ignored = ignored
        self._names = {id(module): name for name, module in self.modules.items()}
        # A tensor with several names goes by its first, as in a state dict without duplicates.
        self._owned = {id(t): name for name, t in reversed(tensors_of(self.modules))}
        self._carried: dict[int, _Carried] = {}
        self._stack: list[str] = []
        self.failed_on: list[Tensor] = []
        # Tensors that hold the magnitude of each channel, by id().
        self.magnitudes: set[int] = set()
        self.calls: list[str] = []

    def owner(self, tensor: Any) -> str | None:
        """Name of a parameter or buffer in the model, None for any other object."""
        return self._owned.get(id(tensor))

    def current_module(self) -> tuple[str, nn.Module]:
        """The module whose forward is running, and its name."""
        name = self._stack[-1] if self._stack else ""
        return name, self.modules[name]

    def where(self, call: Call) -> str:
        """Name of a call and of the module that makes it, for a sentence."""
        name, module = self.current_module()
        return f"{call.name} in {name or 'the model'} ({type(module).__name__})"

    def settle(self, call: Call, seen: Callable[[], bool]) -> bool:
        """What ``seen`` finds at this call in the whole network."""
        return self.ledger.settle(self.where(call), seen)

    def ids(self, tensor: Tensor) -> Tensor:
        """The channel ids of a tensor, of the tensor's shape."""
        known = self._known(tensor)
        return known.ids if known.dim is None else along(known.ids, tuple(tensor.shape), known.dim)

    def axis(self, tensor: Tensor, dim: int) -> Tensor:
        """One id for every index of a tensor along ``dim``; what differs elsewhere is united."""
        known = self._known(tensor)
        if known.dim == dim % tensor.dim():
            return known.ids
        return self.axis_ids(self.ids(tensor), dim)

    def only_dim(self, tensor: Tensor) -> int | None:
        """The only dimension along which ids lie, counted from the end; None if not known."""
        dim = self._known(tensor).dim
        return None if dim is None else dim - tensor.dim()

    def _known(self, tensor: Tensor) -> _Carried:
        if id(tensor) not in self._carried:
            self.assign(tensor, self._first_ids(tensor))
        return self._carried[id(tensor)]

    def _first_ids(self, tensor: Tensor) -> Tensor:
        name = self.owner(tensor)
        # A single number, such as a learned scale, holds no channel and may meet any.
        if tensor.numel() == 1:
            return torch.zeros(tensor.shape, dtype=torch.long)
        if name is not None:
            return self.ledger.parameter(name, tuple(tensor.shape))
        return self.ledger.constant(
            tuple(tensor.shape), "it meets a tensor that is computed with a fixed size"
        )

    def labels_at_failure(self) -> set[int]:
        """The ids that lay in the operands of the operation that failed."""
        known = [self._carried[id(t)].ids for t in self.failed_on if id(t) in self._carried]
        return {label for ids in known for label in narrow_repeats(ids)[0].unique().tolist()}

    def knows(self, tensor: Tensor) -> bool:
        """Whether channels can lie in this tensor: it was traced, or it belongs to the model."""
        return id(tensor) in self._carried or id(tensor) in self._owned

    def assign(self, tensor: Tensor, ids: Tensor) -> None:
        """Carry ``ids`` beside ``tensor`` from now on."""
        ids = ids.expand(tensor.shape)
        steps = ids.stride()
        varying = [dim for dim, size in enumerate(tensor.shape) if size > 1 and steps[dim]]
        if len(varying) == 1:
            (dim,) = varying
            self.spread(
                tensor, ids.as_strided((ids.shape[dim],), (steps[dim],), ids.storage_offset()), dim
            )
        else:
            self._carried[id(tensor)] = _Carried(tensor, ids, None)

    def spread(self, tensor: Tensor, vector: Tensor, dim: int) -> None:
        """Carry one id for every index along ``dim`` beside ``tensor`` from now on."""
        dim %= tensor.dim()
        if vector.numel() != tensor.shape[dim]:
            raise ValueError(f"{vector.numel()} channels for {tensor.shape[dim]} places")
        self._carried[id(tensor)] = _Carried(tensor, vector, dim)

    def collapse(self, ids: Tensor, dims: list[int]) -> Tensor:
        """``ids`` with ``dims`` cut to 1; ids that differ along them become one channel."""
        for dim in dims:
            if ids.shape[dim] == 0:
                continue
            (narrow,) = narrow_repeats(ids)
            if narrow.shape[dim] > 1:
                # A neutral place takes the name of the channel it stands beside.
                top = narrow.amax(dim, keepdim=True)
                self.ledger.unite(narrow, top)
                shape = list(ids.shape)
                shape[dim] = 1
                ids = top.expand(shape)
            else:
                ids = ids.narrow(dim, 0, 1)
        return ids

    def axis_ids(self, ids: Tensor, dim: int) -> Tensor:
        """One id for every index along ``dim``."""
        dim %= ids.dim()
        # A weight has one entry per channel along this axis, so what differs along other axes is
        # united.
        others = [d for d in range(ids.dim()) if d != dim]
        return self.collapse(ids, others).reshape(-1)

    def freeze_inputs(self, call: Call, reason: str) -> None:
        """Keep every channel of the call's inputs, and of what it returns."""
        for tensor in call.tensors:
            if id(tensor) in self._carried:
                self.ledger.freeze(self.ids(tensor), reason)
            # A parameter that nothing was known of yet meets the operation first, and is frozen
            # with it.
            elif self.owner(tensor) is not None:
                self.assign(tensor, self.ledger.constant(tuple(tensor.shape), reason))
        for tensor in call.outputs:
            self.assign(tensor, self.ledger.constant(tuple(tensor.shape), reason))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Trace what runs inside; the module calls are followed by hooks on no module."""
        enter = register_module_forward_pre_hook(self._enter)
        leave = register_module_forward_hook(self._leave)
        try:
            with torch.no_grad(), self:
                yield
        finally:
            enter.remove()
            leave.remove()

    def _enter(self, module: nn.Module, _args: Any) -> None:
        # Modules that a forward makes on the fly have no name; what they do counts for their
        # caller.
        self._stack.append(self._names.get(id(module), self._stack[-1] if self._stack else ""))

    def _leave(self, _module: nn.Module, _args: Any, out: Any) -> None:
        name = self._stack.pop()
        if name in self._ignored:
            made = len(self.calls)
            for tensor in tensors_in(out):
                self.ledger.freeze(self.ids(tensor), f"{name} is in ignore")
            # What is done to ids here is no call of the model's.
            del self.calls[made:]

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        try:
            return self._call(func, args, kwargs)
        except Exception:
            # What an operation was given when it failed tells which channels do not fit.
            self.failed_on = list(tensors_in([*args, *kwargs.values()]))
            raise

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        name = plain_name(func)
        self.calls.append(name)
        out = None if "out" in kwargs else known_result(name, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        elif func.__name__.endswith("_") or kwargs.get("inplace", False):
            out = args[0]
        outputs = list(tensors_in(out))
        # Most calls ask for a shape, and hand on no channels.
        if outputs or name in _MUTATING:
            call = Call(name, func, args, kwargs, out, outputs)
            if any(t.is_floating_point() for t in call.tensors):
                self._handle(call)
        return out

    def _handle(self, call: Call) -> None:
        try:
            self._handlers.get(call.name, _unknown)(self, call)
        except ChannelMismatchError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a handler stumbles on, the model ran)
            # The call itself succeeded, so the model is not to blame: its channels simply stay.
            reason = f"{self.where(call)} is used in a way that cannot be followed ({error})"
            self.freeze_inputs(call, reason)


# Calls that change a tensor and return none.
_MUTATING = frozenset({"setitem"})
_REFLECTED = {"radd": "add", "rsub": "sub", "rmul": "mul", "rtruediv": "truediv", "rpow": "pow"}
_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow"}
_SHORT_PROPERTIES = {"T", "mT", "H", "mH", "data", "real", "grad"}


@lru_cache(maxsize=1024)
def plain_name(func: Callable[..., Any]) -> str:
    """The name of a torch call without the marks of an in-place or reflected form."""
    name: str = getattr(func, "__name__", str(func))
    if name == "__get__":
        prop: str = getattr(getattr(func, "__self__", None), "__name__", "")
        return f"property {prop}" if prop in _SHORT_PROPERTIES else "property"
    # In-place and reflected forms do the same to channels as the plain operation.
    name = name.strip("_")
    return _IN_PLACE.get(name) or _REFLECTED.get(name) or name


def _unknown(trace: Tracer, call: Call) -> None:
    if any(trace.knows(t) for t in call.tensors):
        reason = f"{trace.where(call)} is not known to keep channels apart"
        trace.freeze_inputs(call, reason)
