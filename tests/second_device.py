"""A made-up device, so that tensors of two devices that meet are found without an accelerator.

Its tensors hold theirs on the CPU and say that they are on ``DEVICE``. An operation on tensors of
both devices fails as it does on a real accelerator, and so does what only the CPU can do. Importing
this registers the device with torch for good, so it is for a process of its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class Backend(_DummyBackendModule):
    """What autocast asks about a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("elsewhere", backend_module=Backend())
DEVICE = torch.device("elsewhere:0")
# Types that the device does not have; a tensor of one is refused there as Apple's GPUs do.
MISSING: set[torch.dtype] = set()
ATEN = torch.ops.aten
# An index may lie on the CPU, and copies go from one device to another.
MAY_MEET = {
    ATEN.index.Tensor: 1,
    ATEN.index_put_.default: 1,
    ATEN.index_put.default: 1,
    ATEN._index_put_impl_.default: 1,
    ATEN.copy_.default: 2,
    ATEN._to_copy.default: 1,
}


class Elsewhere(Tensor):
    """A tensor of the device; ``here`` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.here!r})"

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return dispatched(func, args, kwargs or {})


class Second(TorchDispatchMode):
    """Makes tensors on the device where it is asked for."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on what the tensors hold."""
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    own = [t for t in given if isinstance(t, Elsewhere)]
    check(func, args, own, given)
    asked = kwargs.get("device")
    is_ours = torch.device(asked).type == DEVICE.type if asked is not None else bool(own)
    if asked is not None and is_ours:
        kwargs = {**kwargs, "device": "cpu"}
    held = tree_map_only(Elsewhere, lambda t: t.here, (args, kwargs))
    if func is ATEN.copy_.default:
        is_ours = isinstance(args[0], Elsewhere)
    result = func(*held[0], **held[1])
    if not is_ours or func is ATEN._local_scalar_dense.default:
        return result
    for tensor in tree_leaves(result):
        if isinstance(tensor, Tensor) and tensor.dtype in MISSING:
            raise TypeError(f"the device has no {tensor.dtype}")
    same = {id(t.here): t for t in own}
    return tree_map_only(Tensor, lambda t: same[id(t)] if id(t) in same else Elsewhere(t), result)


def check(func: Any, args: tuple[Any, ...], own: list[Tensor], given: list[Tensor]) -> None:
    """Refuse what an accelerator would."""
    foreign = [t for t in given if not isinstance(t, Elsewhere) and t.dim() > 0]
    if not (own and foreign):
        return
    first = MAY_MEET.get(func)
    if first == 2 or (first == 1 and isinstance(args[0], Elsewhere)):
        return
    raise RuntimeError(
        f"{func} got tensors of two devices: {[tuple(t.shape) for t in own]} elsewhere, "
        f"{[tuple(t.shape) for t in foreign]} on the CPU"
    )
