"""Copies of modules as ``copy.deepcopy`` makes them, several times faster.

A deep network holds thousands of settings and empty hook tables, each of which ``deepcopy``
looks at one by one; here they are told apart by type, and all else is left to ``deepcopy``.
"""

import copy
from functools import cached_property
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amc_env.structure.naming import named_tensors

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
_OWN_TABLES = frozenset(
    name for name, value in vars(nn.Module()).items() if isinstance(value, dict | set)
)


def copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy(module, memo)`` returns."""
    return Template(module).copy(memo)


class Template:
    """Makes any number of copies of a model that does not change in the meantime.

    What a module keeps is told apart once, and not for every copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._recipes: dict[int, _Recipe] = {}

    def copy(self, memo: dict[int, Any]) -> nn.Module:
        """What ``copy.deepcopy(model, memo)`` returns."""
        return self._copy(self.model, memo)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers of the model by name."""
        return dict(named_tensors(self.model))

    def _copy(self, module: nn.Module, memo: dict[int, Any]) -> nn.Module:
        known = memo.get(id(module))
        if isinstance(known, nn.Module):
            return known
        recipe = self._recipes.get(id(module))
        if recipe is None:
            if _copies_itself(type(module)):
                return copy.deepcopy(module, memo)
            recipe = self._recipes[id(module)] = _recipe(module)
        twin = recipe.kind.__new__(recipe.kind)
        memo[id(module)] = twin
        state = recipe.settings.copy()
        for name, kind in recipe.empty:
            state[name] = kind()
        for name, table in recipe.tables:
            state[name] = self._copy_table(table, memo)
        for name, value in recipe.rest:
            state[name] = _copy_value(value, memo)
        if recipe.restores_itself:
            twin.__setstate__(state)
        else:
            vars(twin).update(state)
        return twin

    def _copy_table(self, table: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
        twin = type(table)()
        for name, value in table.items():
            if isinstance(value, Tensor):
                twin[name] = _copy_tensor(value, memo)
            elif isinstance(value, nn.Module):
                twin[name] = self._copy(value, memo)
            else:
                twin[name] = _copy_value(value, memo)
        return twin


class _Recipe(NamedTuple):
    """How one module is copied.

    Attributes:
        settings: What the module keeps, in its order; copies share all that is not named below.
        empty: Tables without entries, of which a copy gets its own.
        tables: The modules, parameters and buffers.
        rest: What else can be changed.
        restores_itself: Whether the module's own ``__setstate__`` has to be called.
    """

    kind: type[nn.Module]
    settings: dict[str, Any]
    empty: list[tuple[str, type]]
    tables: list[tuple[str, dict[str, Any]]]
    rest: list[tuple[str, Any]]
    restores_itself: bool


def _recipe(module: nn.Module) -> _Recipe:
    kind = type(module)
    settings = dict(module.__getstate__())
    empty: list[tuple[str, type]] = []
    tables: list[tuple[str, dict[str, Any]]] = []
    rest: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if type(value) in _IMMUTABLE:
            continue
        # A tensor that a module keeps by itself is neither true nor false.
        if name in _OWN_TABLES and not value:
            empty.append((name, type(value)))
        elif name in _TABLES:
            tables.append((name, value))
        elif not _is_immutable(value):
            rest.append((name, value))
    return _Recipe(
        kind=kind,
        settings=settings,
        empty=empty,
        tables=tables,
        rest=rest,
        # Torch's own only fill in settings that an older pickle lacks.
        restores_itself=not kind.__setstate__.__module__.startswith("torch.nn.modules."),
    )


def _copies_itself(kind: type[nn.Module]) -> bool:
    return (
        hasattr(kind, "__deepcopy__")
        or kind.__getstate__ is not nn.Module.__getstate__
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
    )


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
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, dict) and not value:
        return memo.setdefault(id(value), kind())
    if kind is set and all(type(item) in _IMMUTABLE for item in value):
        return memo.setdefault(id(value), kind(value))
    if _is_immutable(value):
        return value
    return copy.deepcopy(value, memo)


def _is_immutable(value: Any) -> bool:
    # Settings such as a kernel size are tuples of numbers, of which a network has thousands.
    if type(value) is tuple:
        return all(type(item) in _IMMUTABLE for item in value)
    return type(value) in _IMMUTABLE or isinstance(value, type)
