"""Copies of modules as ``copy.deepcopy`` makes them, several times faster.

A deep network holds thousands of settings and empty hook tables, each of which ``deepcopy``
looks at one by one; here they are told apart by type, and all else is left to ``deepcopy``.
"""

import copy
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

_IMMUTABLE = frozenset(
    {
        int,
        float,
        bool,
        str,
        bytes,
        type(None),
        type,
        FunctionType,
        BuiltinFunctionType,
        torch.dtype,
        torch.device,
    }
)
_TABLES = ("_modules", "_parameters", "_buffers")
# A dozen of hooks, nearly always empty; none of them is shared between modules.
_OWN_TABLES = frozenset(name for name, value in vars(nn.Module()).items() if value == {})


def copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy(module, memo)`` returns."""
    known = memo.get(id(module))
    if isinstance(known, nn.Module):
        return known
    kind = type(module)
    if _copies_itself(kind):
        return copy.deepcopy(module, memo)
    twin = kind.__new__(kind)
    memo[id(module)] = twin
    state = dict(module.__getstate__())
    for name, value in state.items():
        if type(value) in _IMMUTABLE:
            continue
        if name in _TABLES:
            state[name] = _copy_table(value, memo)
        elif not value and name in _OWN_TABLES:
            state[name] = type(value)()
        else:
            state[name] = _copy_value(value, memo)
    # A module may fill in settings that an older pickle lacks; deepcopy calls this as well.
    twin.__setstate__(state)
    return twin


def _copies_itself(kind: type[nn.Module]) -> bool:
    return (
        hasattr(kind, "__deepcopy__")
        or kind.__getstate__ is not nn.Module.__getstate__
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
    )


def _copy_table(table: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    twin = type(table)()
    for name, value in table.items():
        if isinstance(value, nn.Module):
            twin[name] = copy_module(value, memo)
        elif isinstance(value, Tensor):
            twin[name] = _copy_tensor(value, memo)
        else:
            twin[name] = _copy_value(value, memo)
    return twin


def _copy_tensor(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    # The memo holds the cut tensors, and shared parameters must stay shared.
    known = memo.get(id(tensor))
    if isinstance(known, Tensor):
        return known
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.__dict__:
        return copy.deepcopy(tensor, memo)
    twin = tensor.detach().clone()
    if type(tensor) is nn.Parameter:
        twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
    memo[id(tensor)] = twin
    return twin


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, dict) and not value:
        return memo.setdefault(id(value), kind())
    # Settings such as a kernel size are tuples of numbers, of which a network has thousands.
    if kind in (tuple, set) and all(type(item) in _IMMUTABLE for item in value):
        return memo.setdefault(id(value), kind(value))
    if isinstance(value, type):
        return value
    return copy.deepcopy(value, memo)
