"""Runs a model once with channel ids carried beside its tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import tensors_in
from amc_env.structure.channel_ids import narrow_repeats
from amc_env.structure.ledger import ChannelMismatchError, Ledger


@dataclass(frozen=True)
class Call:
    """One torch call that the model made.

    Attributes:
        name: Name without the marks of an in-place or reflected form.
        out: What the call returned.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

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

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, also those inside lists."""
        return list(tensors_in([*self.args, *self.kwargs.values()]))

    def outputs(self) -> list[Tensor]:
        """All tensors that the call returned."""
        return list(tensors_in(self.out))


Handler = Callable[["Tracer", Call], None]


class Tracer(TorchFunctionMode):
    """Follows channels through every torch call of one model.

    Args:
        model: The model that is run while the tracer is active.
        ledger: What is told of the channels met.
        handlers: What each operation does to channel ids, by name.
        batch: Number of samples that are run at once.
        ignored: Names of modules whose output channels stay.
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
        self.modules = dict(model.named_modules())
        self._handlers = handlers
        self._ignored = ignored
        self._names = {id(module): name for name, module in self.modules.items()}
        self._owned = {id(t): name for name, t in _named_tensors(model)}
        # The tensor is kept beside its ids so that its id() is not given to another.
        self._ids: dict[int, tuple[Tensor, Tensor]] = {}
        self._stack: list[str] = []
        self.failed_on: list[Tensor] = []
        # Tensors that hold the magnitude of each channel, by id().
        self.magnitudes: set[int] = set()

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
        known = self._ids.get(id(tensor))
        if known is not None:
            return known[1]
        name = self.owner(tensor)
        # A single number, such as a learned scale, holds no channel and may meet any.
        if tensor.numel() == 1:
            ids = torch.zeros(tensor.shape, dtype=torch.long)
        elif name is not None:
            ids = self.ledger.parameter(name, tuple(tensor.shape))
        else:
            ids = self.ledger.constant(
                tuple(tensor.shape), "it meets a tensor that is computed with a fixed size"
            )
        self.assign(tensor, ids)
        return ids

    def labels_at_failure(self) -> set[int]:
        """The ids that lay in the operands of the operation that failed."""
        known = [self._ids[id(t)][1] for t in self.failed_on if id(t) in self._ids]
        return {label for ids in known for label in narrow_repeats(ids)[0].unique().tolist()}

    def knows(self, tensor: Tensor) -> bool:
        """Whether channels can lie in this tensor: it was traced, or it belongs to the model."""
        return id(tensor) in self._ids or id(tensor) in self._owned

    def assign(self, tensor: Tensor, ids: Tensor) -> None:
        """Carry ``ids`` beside ``tensor`` from now on."""
        self._ids[id(tensor)] = (tensor, ids.expand(tensor.shape))

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
        for tensor in call.tensors():
            if id(tensor) in self._ids:
                self.ledger.freeze(self.ids(tensor), reason)
            # A parameter that nothing was known of yet meets the operation first, and is frozen
            # with it.
            elif self.owner(tensor) is not None:
                self.assign(tensor, self.ledger.constant(tuple(tensor.shape), reason))
        for tensor in call.outputs():
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
            for tensor in tensors_in(out):
                self.ledger.freeze(self.ids(tensor), f"{name} is in ignore")

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
        name = _plain_name(func)
        if "out" not in kwargs and _keeps_meta_shape(name, args):
            in_place = func.__name__.endswith("_") or kwargs.get("inplace", False)
            out = args[0] if in_place else torch.empty_like(args[0])
        else:
            out = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, out)
        carries_values = any(t.is_floating_point() for t in call.tensors())
        if carries_values and (call.outputs() or call.name in _MUTATING):
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


# What gives back the shape and the type of a floating-point tensor, of all other arguments
# whatever. On the meta device torch takes these apart in slow Python, at 5 to 50 times the price
# of an addition, and imports its compiler for it, only to find out the shape it got.
_SHAPE_KEEPING = (
    "batch_norm instance_norm relu relu6 leaky_relu elu selu celu gelu silu mish hardswish "
    "hardsigmoid hardtanh sigmoid tanh softplus dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_alpha_dropout"
)
_KEEP_SHAPE = frozenset(_SHAPE_KEEPING.split())
_KEEP_SHAPE_OF_EQUALS = frozenset({"add", "sub", "mul"})


def _keeps_meta_shape(name: str, args: tuple[Any, ...]) -> bool:
    if not args or not isinstance(args[0], Tensor):
        return False
    first = args[0]
    if not first.is_meta or not first.is_floating_point():
        return False
    if name in _KEEP_SHAPE:
        return True
    second = args[1] if name in _KEEP_SHAPE_OF_EQUALS and len(args) > 1 else None
    return isinstance(second, Tensor) and (second.shape, second.dtype) == (first.shape, first.dtype)


def _plain_name(func: Callable[..., Any]) -> str:
    name: str = getattr(func, "__name__", str(func))
    if name == "__get__":
        prop: str = getattr(getattr(func, "__self__", None), "__name__", "")
        return f"property {prop}" if prop in _SHORT_PROPERTIES else "property"
    # In-place and reflected forms do the same to channels as the plain operation.
    name = name.strip("_")
    return _IN_PLACE.get(name) or _REFLECTED.get(name) or name


def _unknown(trace: Tracer, call: Call) -> None:
    if any(trace.knows(t) for t in call.tensors()):
        reason = f"{trace.where(call)} is not known to keep channels apart"
        trace.freeze_inputs(call, reason)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # A tensor with several names goes by its first, as in a state dict without duplicates.
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
