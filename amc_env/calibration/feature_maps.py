"""Feature maps of layers as the next layers read them, after norm and activation, or as they are.

A layer's output is followed through norms, activations, sums and gates for as long as its shape
stays the same. The feature map is the tensor that the first operation of another kind reads: the
next convolution, a pooling, a concatenation.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.batches import Batch, mapped
from amc_env.calibration.hooks import listening, run
from amc_env.structure import LayerUse

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
        Tensor.matmul,
        Tensor.__matmul__,
        torch.bmm,
        torch.einsum,
        torch.max_pool2d,
    }
)

_PRODUCTS = frozenset(
    {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 (the base of all convolutions)


def feature_maps(
    model: nn.Module, layers: Sequence[str], batch: Batch, *, before_activation: bool = False
) -> dict[str, Tensor]:
    """The maps of ``layers`` on one batch, each (samples, channels, H, W).

    Outputs with fewer than two spatial dimensions get dimensions of size 1. Of a layer that runs
    several times the first output counts. The model runs in the mode that it is in.

    Args:
        model: The network.
        layers: Names of its layers.
        batch: Samples that it is run on.
        before_activation: Whether a map is the output of the layer itself, before norm and
            activation, and not what the next layer reads.

    Raises:
        ValueError: A layer does not exist or did not run, or a map is not finite.
    """
    followed = _followed(model, layers, batch, _Follower(is_still=before_activation))
    for name in layers:
        if not followed.maps[name].isfinite().all():
            raise ValueError(f"the maps of layer {name!r} hold NaN or infinity; check the samples")
    return {name: _as_images(followed.maps[name], followed.axes[name]) for name in layers}


def has_feature_maps(model: nn.Module, layer: LayerUse) -> bool:
    """Whether :func:`feature_maps` finds a layer on samples like those it was analysed with.

    It does not find layers that only training runs, and those whose weight a module computes that
    is no convolution or linear layer itself.
    """
    is_module = isinstance(dict(model.named_modules()).get(layer.name), _LAYERS)
    return layer.uses > 0 and (is_module or layer.weight is not None)


def map_gradients(
    model: nn.Module, layer: str, batch: Batch, loss: Callable[[object], Tensor]
) -> tuple[Tensor, Tensor]:
    """A layer's maps, and the gradient of ``loss(output of the network)`` with respect to them.

    The gradients stored on parameters are not touched.

    Raises:
        ValueError: The layer does not exist or did not run.
    """
    outputs: list[object] = []
    followed = _followed(model, [layer], mapped(_with_gradient, batch), _Follower(), outputs)
    maps, axis = followed.maps[layer], followed.axes[layer]
    # The gradient is zero, not missing, where the output does not depend on the maps.
    (gradient,) = torch.autograd.grad(
        loss(outputs[0]), [maps], allow_unused=True, materialize_grads=True
    )
    return _as_images(maps.detach(), axis), _as_images(gradient, axis)


def _with_gradient(x: Tensor) -> Tensor:
    x = x.detach()
    return x.requires_grad_() if x.is_floating_point() else x


def _followed(
    model: nn.Module,
    layers: Sequence[str],
    batch: Batch,
    mode: "_Follower",
    outputs: list[object] | None = None,
) -> "_Follower":
    modules = dict(model.named_modules())
    weights = {name: _bare_weight(modules, name) for name in layers}
    for name, weight in weights.items():
        if weight is not None:
            mode.expect(name, weight)
    heard = {name: modules[name] for name, weight in weights.items() if weight is None}
    with listening(heard, after=mode.hear), mode:
        output = run(model, batch)
    if outputs is not None:
        outputs.append(output)
    silent = [name for name in layers if name not in mode.maps]
    if silent:
        raise ValueError(f"layer {silent[0]!r} did not run on the samples")
    return mode


def _bare_weight(modules: Mapping[str, nn.Module], name: str) -> Tensor | None:
    """The weight by whose use a layer is recognised; None where a module's output is the layer's.

    A parameter that a forward passes to ``F.conv2d`` or the like has no module of its own, and the
    module that owns it may do more than that.
    """
    module = modules.get(name)
    if isinstance(module, _LAYERS):
        return None
    if module is not None:
        weight = getattr(module, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.dim() > 1 else None
    owner, _, attribute = name.rpartition(".")
    weight = getattr(modules.get(owner), attribute, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"the model has no layer {name!r}")
    return weight


class _Follower(TorchFunctionMode):
    """Follows layers' outputs through operations that keep their shape.

    Args:
        is_still: Keep the layers' own outputs and follow none of them.
    """

    def __init__(self, *, is_still: bool = False) -> None:
        super().__init__()
        self._is_still = is_still
        self.maps: dict[str, Tensor] = {}
        self.axes: dict[str, int] = {}
        self._weights: dict[int, tuple[Tensor, str]] = {}
        # Tensors are told apart by ``id``, which Python may give to a new tensor once the old one
        # is freed; holding the tensors here keeps every id unique.
        self._names: dict[int, tuple[Tensor, set[str]]] = {}

    def hear(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Follow the output of a layer that is a module."""
        self.begin(name, output, axis=-1 if isinstance(layer, nn.Linear) else 1)

    def begin(self, name: str, output: Tensor, *, axis: int) -> None:
        """Follow a layer's first output, whose channels lie along ``axis``."""
        if name in self.maps:
            return
        self.axes[name] = axis
        if self._is_still:
            # An activation in place would write into the layer's own output.
            self.maps[name] = output.clone()
        else:
            self._go_on(name, output)

    def expect(self, name: str, weight: Tensor) -> None:
        """Follow what the first function returns that is called with a weight and something else.

        What a function makes of the weight alone, such as its transpose, stands for it.
        """
        self._weights[id(weight)] = (weight, name)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = _tensors((*args, *(kwargs or {}).values()))
        read = [a for a in given if id(a) in self._names]
        result = func(*args, **(kwargs or {}))
        if not _is_computed(result):
            return result
        for tensor in {id(t): t for t in read}.values():
            self._continue(func, tensor, result)
        for place, tensor in enumerate(given):
            if id(tensor) not in self._weights:
                continue
            name = self._weights[id(tensor)][1]
            if len(given) == 1:
                self.expect(name, result)
            else:
                self.begin(name, result, axis=_output_axis(func, args, place))
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


def _output_axis(func: Callable[..., Any], args: tuple[Any, ...], place: int) -> int:
    """The axis on which a function puts the outputs of a weight, its tensor number ``place``."""
    if func is torch.einsum:
        terms, result = args[0].replace(" ", "").replace("...", "*").split("->")
        letters = terms.split(",")
        new = next(letter for letter in letters[place] if letter not in letters[1 - place])
        return int(result.index(new)) - len(result)
    if func in _PRODUCTS:
        # A matrix on the left puts its outputs on the last axis but one.
        return -1 if place else -2
    return 1


def _as_images(x: Tensor, axis: int) -> Tensor:
    """(samples, channels, H, W), whatever dimensions a layer's output has."""
    first = x.movedim(axis, 1)
    if first.dim() < 4:
        return first.reshape(*first.shape[:2], 1, -1)
    return first.flatten(2, -2)
