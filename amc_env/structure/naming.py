"""The modules and tensors of a network by name, each under its first, found in one walk.

``nn.Module.named_parameters`` and its like pass every name up through a generator for each level
of nesting. Every trial cut asks for the names several times, which took as long as the trial.
"""

from collections.abc import Mapping

from torch import Tensor, nn


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What ``dict(model.named_modules())`` is."""
    found: dict[str, nn.Module] = {}
    _collect_(found, set(), "", model)
    return found


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, then buffers; one with several names goes by its first."""
    return tensors_of(named_modules(model))


def tensors_of(modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
    """The same, of modules by name."""
    # Buffers too, because running means and variances have channels as weights do.
    return [*_in_tables(modules, "_parameters"), *_in_tables(modules, "_buffers")]


def _collect_(found: dict[str, nn.Module], seen: set[int], name: str, module: nn.Module) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    found[name] = module
    prefix = f"{name}." if name else ""
    for key, child in module._modules.items():  # noqa: SLF001 (torch has no faster way to ask)
        if child is not None:
            _collect_(found, seen, prefix + key, child)


def _in_tables(modules: Mapping[str, nn.Module], table: str) -> list[tuple[str, Tensor]]:
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in modules.items():
        prefix = f"{name}." if name else ""
        for key, tensor in vars(module)[table].items():
            if tensor is not None and id(tensor) not in found:
                found[id(tensor)] = (prefix + key, tensor)
    return list(found.values())
