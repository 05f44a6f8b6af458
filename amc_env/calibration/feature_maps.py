"""Feature maps of layers as the next layers read them: after norm and activation.

A layer's output is followed through norms, activations, sums and gates for as long as its shape
stays the same. The feature map is the tensor that the first operation of another kind reads: the
next convolution, a pooling, a concatenation.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.calibration.hooks import listening, run

# Operations that end a map even where their output has the same shape: what they compute are the
# features of the next layer.
_READERS = frozenset(
    {
        F.conv1d,
        F.conv2d,
        F.conv3d,
        F.conv_transpose1d,
        F.conv_transpose2d,
        F.conv_transpose3d,
        F.linear,
        F.max_pool2d,
        F.avg_pool2d,
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.matmul,
        torch.bmm,
        torch.max_pool2d,
    }
)


def feature_maps(model: nn.Module, layers: Sequence[str], batch: Tensor) -> dict[str, Tensor]:
    """The maps of ``layers`` on one batch, each (samples, channels, H, W).

    Outputs with fewer than two spatial dimensions get dimensions of size 1. Of a layer that runs
    several times the first output counts. The model runs in the mode that it is in.

    Raises:
        ValueError: A layer does not exist or did not run, or a map is not finite.
    """
    modules = dict(model.named_modules())
    maps = _followed(model, layers, batch)
    for name in layers:
        if not maps[name].isfinite().all():
            raise ValueError(f"the maps of layer {name!r} hold NaN or infinity; check the samples")
    return {name: _as_images(modules[name], maps[name]) for name in layers}


def map_gradients(
    model: nn.Module, layer: str, batch: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """A layer's maps, and the gradient of ``loss(output of the network)`` with respect to them.

    The gradients stored on parameters are not touched.

    Raises:
        ValueError: The layer does not exist or did not run.
    """
    outputs: list[Tensor] = []
    maps = _followed(model, [layer], batch.detach().requires_grad_(), outputs)[layer]
    module = model.get_submodule(layer)
    # The gradient is zero, not missing, where the output does not depend on the maps.
    (gradient,) = torch.autograd.grad(
        loss(outputs[0]), [maps], allow_unused=True, materialize_grads=True
    )
    return _as_images(module, maps.detach()), _as_images(module, gradient)


def _followed(
    model: nn.Module, layers: Sequence[str], batch: Tensor, outputs: list[Tensor] | None = None
) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise ValueError(f"the model has no layer {unknown[0]!r}")
    mode = _Follower()
    with listening({name: modules[name] for name in layers}, after=mode.begin), mode:
        output = run(model, batch)
    if outputs is not None:
        outputs.append(output)
    silent = [name for name in layers if name not in mode.maps]
    if silent:
        raise ValueError(f"layer {silent[0]!r} did not run on the samples")
    return mode.maps


class _Follower(TorchFunctionMode):
    """Follows layers' outputs through operations that keep their shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, Tensor] = {}
        # Tensors are told apart by ``id``, which Python may give to a new tensor once the old one
        # is freed; holding the tensors here keeps every id unique.
        self._names: dict[int, tuple[Tensor, set[str]]] = {}

    def begin(self, name: str, _: nn.Module, output: Tensor) -> None:
        """Follow a layer's output, the first time that it runs."""
        if name not in self.maps:
            self._go_on(name, output)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        read = [a for a in _tensors((*args, *(kwargs or {}).values())) if id(a) in self._names]
        result = func(*args, **(kwargs or {}))
        if read and _is_computed(result):
            for tensor in {id(t): t for t in read}.values():
                self._continue(func, tensor, result)
        return result

    def _continue(self, func: Callable[..., Any], tensor: Tensor, result: Tensor) -> None:
        names = set(self._names[id(tensor)][1])
        if func not in _READERS and result.shape == tensor.shape:
            for name in names:
                self._go_on(name, result)
        elif result is not tensor:
            # Another layer has read the map, so it ends here: whatever else is later computed from
            # the same tensor, such as a residual sum, is no longer this layer's feature map.
            self._names[id(tensor)][1].clear()
            for held, others in self._names.values():
                if held is not tensor:
                    others -= names

    def _go_on(self, name: str, tensor: Tensor) -> None:
        self.maps[name] = tensor
        self._names.setdefault(id(tensor), (tensor, set()))[1].add(name)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def _is_computed(result: object) -> bool:
    return isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 0


def _as_images(layer: nn.Module, x: Tensor) -> Tensor:
    """(samples, channels, H, W), whatever dimensions a layer's output has."""
    first = x.movedim(-1, 1) if isinstance(layer, nn.Linear) else x
    if first.dim() < 4:
        return first.reshape(*first.shape[:2], 1, -1)
    return first.flatten(2, -2)
