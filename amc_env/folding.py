"""Batch norms folded into the convolutions before them, for networks that are only evaluated."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from amc_env.batches import Batch, call, tensors_in
from amc_env.calibration.hooks import evaluating, listening
from amc_env.structure.module_copy import copy_module

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Functions that read a property of a tensor, unless they return another tensor.
_PROPERTIES = ("__get__", "size", "dim")
# Largest difference of a folded network's outputs, relative to the largest output.
_TOLERANCE = 1e-4

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A convolution and the batch norm that alone reads its output, by their names."""

    convolution: str
    norm: str


def folds_of(model: nn.Module, batch: Batch) -> tuple[Fold, ...]:
    """The batch norms of a network that can be folded into the convolutions before them.

    The network is run on ``batch`` once as it is, and once folded: unless both give the same
    output, but for rounding, nothing is folded. Networks that are cut from it fold alike.
    """
    with evaluating(model):
        expected, folds = _watch(model, batch)
        try:
            found = call(folded(model, folds), batch)
        except Exception as error:  # noqa: BLE001 (a user's forward may ask a norm for anything)
            _LOG.info("no batch norm is folded, because the folded network fails: %s", error)
            return ()
    return folds if _are_close(found, expected) else ()


def folded(model: nn.Module, folds: Sequence[Fold]) -> nn.Module:
    r"""A network that computes the same in evaluation mode, without the batch norms in ``folds``.

    It shares all other weights with ``model``. A convolution with weights ``W`` and bias ``b``,
    whose output is normalised with mean ``m`` and variance ``v`` and scaled by ``g`` and ``c``,
    becomes

    .. math:: W' = \frac{g}{\sqrt{v + \epsilon}} W, \quad
              b' = \frac{g}{\sqrt{v + \epsilon}} (b - m) + c

    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018, section 3.2.
    """
    if not folds:
        return model
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    for fold in folds:
        convolution = cast("nn.Conv2d", model.get_submodule(fold.convolution))
        norm = cast("nn.BatchNorm2d", model.get_submodule(fold.norm))
        memo[id(convolution)] = fuse_conv_bn_eval(convolution, norm)
        memo[id(norm)] = nn.Identity()
    return copy_module(model, memo)


def _watch(model: nn.Module, batch: Batch) -> tuple[object, tuple[Fold, ...]]:
    """The output for a batch, and the folds that nothing in this run speaks against."""
    watcher = _Watcher(model)
    with (
        listening(watcher.norms, before=watcher.meet),
        listening(watcher.convolutions, after=watcher.follow),
        watcher,
    ):
        output = call(model, batch)
    return output, tuple(watcher.folds())


class _Watcher(TorchFunctionMode):
    """Lists which functions read the outputs of convolutions, and the weights of both kinds.

    A norm is folded only if it alone reads what the convolution gives, and if nothing else reads
    the tensors of the two, as a network does that uses a layer twice or rescales its weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        layers = {name: m for name, m in model.named_modules() if not _has_hooks(m)}
        self.convolutions = {n: m for n, m in layers.items() if type(m) in _CONVOLUTIONS}
        self.norms = {
            n: m for n, m in layers.items() if type(m) in _NORMS and m.running_mean is not None
        }
        self._outputs: dict[str, Tensor] = {}
        self._inputs: dict[str, Tensor] = {}
        self._readers: dict[int, list[Callable[..., Any]]] = {
            id(t): [] for m in [*self.convolutions.values(), *self.norms.values()] for t in _own(m)
        }

    def follow(self, name: str, _layer: nn.Module, output: Tensor) -> None:
        """Remember the output of a convolution."""
        # It has to stay alive, because the id of a tensor that is gone is given to another.
        self._outputs[name] = output
        self._readers[id(output)] = []

    def meet(self, name: str, _layer: nn.Module, value: Tensor) -> None:
        """Remember the input of a batch norm."""
        self._inputs[name] = value

    def folds(self) -> Iterator[Fold]:
        """The pairs of a convolution and the norm that alone reads its output."""
        norms = {id(value): name for name, value in self._inputs.items()}
        for convolution, output in self._outputs.items():
            norm = norms.get(id(output))
            if norm is not None and self._are_alone(convolution, norm):
                yield Fold(convolution=convolution, norm=norm)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Anybody may read a shape, but an attribute such as ``data`` is another name of the values.
        if isinstance(result, Tensor) or getattr(func, "__name__", "") not in _PROPERTIES:
            for leaf in tree_leaves((args, kwargs)):
                if id(leaf) in self._readers:
                    self._readers[id(leaf)].append(func)
        return result

    def _are_alone(self, convolution: str, norm: str) -> bool:
        readers = self._readers[id(self._outputs[convolution])]
        tensors = [*_own(self.convolutions[convolution]), *_own(self.norms[norm])]
        return readers == [F.batch_norm] and all(len(self._readers[id(t)]) == 1 for t in tensors)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001 (no other way)


def _own(layer: nn.Module) -> list[Tensor]:
    """The tensors that a layer computes with."""
    buffers = [t for name, t in layer.named_buffers() if name != "num_batches_tracked"]
    return [*layer.parameters(), *buffers]


def _are_close(found: object, expected: object) -> bool:
    pairs = zip(tensors_in(found), tensors_in(expected), strict=True)
    return all(bool((a - b).abs().max() <= _TOLERANCE * b.abs().max()) for a, b in pairs)
