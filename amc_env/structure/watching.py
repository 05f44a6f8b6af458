"""Notes what the layers of a network compute while it runs."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from amc_env.structure.cutting import Indices
from amc_env.structure.naming import named_tensors
from amc_env.structure.records import Structure
from amc_env.structure.tracer import plain_name

# Positions of a layer's output that are compared; a wrong cut is seen at nearly all of them.
_POSITIONS = 256
_LAYERS = frozenset(
    {"linear", *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3))}
)


class Watch(TorchFunctionMode):
    """Notes the output of every conv and linear layer.

    Args:
        silenced: Mask over labels, false for channels that are silenced and so not compared; None
            for a network that is run as it is.
    """

    def __init__(self, model: nn.Module, structure: Structure, silenced: Tensor | None) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor]] = []
        self.calls: list[str] = []
        self._names = {id(tensor): name for name, tensor in reversed(named_tensors(model))}
        self._labels: Mapping[tuple[str, int], Tensor] = {
            (axis.tensor, axis.dim): axis.labels for axis in structure.axes
        }
        self._kept = None if silenced is None else Indices(silenced)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        self.calls.append(plain_name(func))
        out = func(*args, **given)
        called = getattr(func, "__name__", "")
        weight = args[1] if len(args) > 1 else given.get("weight")
        name = self._names.get(id(weight)) if called in _LAYERS else None
        if name is None or not isinstance(weight, Tensor):
            return out
        transposed = "transpose" in called
        # A linear layer's channels lie along the last dimension, and so do those of a weight of
        # two dimensions in general; a convolution's lie before the dimensions of its kernel.
        values = _sampled(out.movedim(1 - weight.dim(), -1))
        self.seen.append((name, self._of_kept(name, values, transposed=transposed)))
        return out

    def _of_kept(self, name: str, values: Tensor, *, transposed: bool) -> Tensor:
        """The values of channels that stay, of a network in which nothing is cut."""
        dense = (name, 1) in self._labels
        labels = self._labels.get((name, 1 if transposed and dense else 0))
        if self._kept is None or labels is None:
            return values
        kept = self._kept.along(labels)
        times = values.shape[1] // labels.numel()
        if times > 1:
            # The parts of a grouped transposed convolution share the axis of its outputs.
            steps = torch.arange(times) * (labels.numel() if dense else 1)
            kept = (steps[:, None] + kept if dense else kept[:, None] * times + steps).flatten()
        return values.index_select(1, kept.to(values.device))


def _sampled(maps: Tensor) -> Tensor:
    """(positions, channels): evenly spaced ones, so that no layer of a large image is held whole.

    Args:
        maps: Values with the channels along the last dimension.
    """
    where = _spread(maps.shape[:-1])
    return maps.reshape(-1, maps.shape[-1]).clone() if where is None else maps[where]


@lru_cache
def _spread(sizes: tuple[int, ...]) -> tuple[Tensor, ...] | None:
    """Where some evenly spaced positions lie among so many along each dimension; None for all."""
    count = prod(sizes)
    if count <= _POSITIONS:
        return None
    where = torch.linspace(0, count - 1, _POSITIONS, device="cpu").long()
    return torch.unravel_index(where, sizes)
