"""Weights that weight norm or spectral norm computes in every forward, stored as they are instead.

A computed weight has no channels of its own that could be cut. In evaluation it always is the same,
so a network that holds it computes what the original does.
"""

import copy
import logging

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_LOG = logging.getLogger(__name__)
# torch has no public names for the classes of these parametrisations.
_PARAMETRISATIONS = frozenset({"_WeightNorm", "_SpectralNorm"})
_SHOWN = 3


def with_stored_weights(model: nn.Module) -> nn.Module:
    """A copy in which no weight is computed by weight or spectral norm; the model if none is."""
    names = [name for name, module in model.named_modules() if _is_normed(module)]
    if not names:
        return model
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    _LOG.warning(
        "weight or spectral norm computes the weights of %s; they are taken as they are, and "
        "compact networks hold them without the norm",
        shown,
    )
    # The older functions leave their result on the module, with a history that deepcopy refuses.
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    copied = copy.deepcopy(model, memo)
    modes = [(module, module.training) for module in copied.modules()]
    # In training, spectral norm would estimate the norm once more.
    copied.eval()
    for module, mode in modes:
        _store_(module)
        module.training = mode
    return copied


def _is_normed(module: nn.Module) -> bool:
    return bool(_parametrised(module) or _hooks(module))


def _parametrised(module: nn.Module) -> list[str]:
    """The weights of a module that only these norms compute, in the newer way."""
    if not parametrize.is_parametrized(module):
        return []
    lists: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
    return [
        name
        for name, each in lists.items()
        if all(type(one).__name__ in _PARAMETRISATIONS for one in each)  # type: ignore[attr-defined]
    ]


def _hooks(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    hooks = module._forward_pre_hooks.values()  # noqa: SLF001 (torch has no other list of them)
    return [hook for hook in hooks if isinstance(hook, WeightNorm | SpectralNorm)]


def _store_(module: nn.Module) -> None:
    names = _parametrised(module)
    if names:
        _get_own_class_(module)
    for name in names:
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in _hooks(module):
        remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
        remove(module, hook.name)


def _get_own_class_(module: nn.Module) -> None:
    """Let a copy no longer share its class with the module that it is a copy of."""
    # A parametrised weight is a property of a class made for the module, and torch takes it off
    # that class: the user's own network would lose it too.
    shared = type(module)
    own = {key: x for key, x in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
