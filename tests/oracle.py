"""What a cut must equal: the original with the channels silenced wherever they are read."""

import copy
from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amc_env import ChannelGraph
from amc_env.structure import LayerUse


def masked(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> nn.Module:
    """The original network, with zero weights where a consumer reads a channel that goes.

    It is as large as the original and knows nothing of how channels are cut: only the positions
    on the consumers' input axes are used.
    """
    model = copy.deepcopy(graph.model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, indices in kept.items():
        group = graph.group(name)
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[indices] = False
        for consumer in group.consumers:
            layer = consumer.layer
            silence_(tensors[layer.weight], layer, consumer.positions[gone].flatten())
    return model


@torch.no_grad()
def silence_(weight: Tensor, layer: LayerUse, inputs: Tensor) -> None:
    """Set the entries of a layer's weight that read ``inputs`` to zero."""
    if layer.output_dim == 1:
        weight[inputs] = 0
        return
    outputs, width = weight.shape[0] // layer.groups, weight.shape[1]
    for index in inputs.tolist():
        part = index // width
        weight[part * outputs : (part + 1) * outputs, index % width] = 0


class FlopsCounter(TorchFunctionMode):
    """Counts the multiply-accumulates of every convolution and linear layer that runs.

    It counts from the shapes of the tensors that meet, so it also sees a convolution that is
    called as a function, which a hook on a module would miss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.__name__
        if name == "linear" or name.startswith("conv"):
            x, weight = args[:2]
            grid = x if "transpose" in name else out
            self.total += grid.numel() * weight[0].numel()
        elif name in {"matmul", "__matmul__", "einsum"}:
            factors = [a for a in args if isinstance(a, Tensor)]
            if any(isinstance(t, nn.Parameter) for a in factors for t in (a, a._base)):
                # Of rows times inputs and inputs times outputs over rows times outputs.
                entries = factors[0].numel() * factors[1].numel() // out.numel()
                self.total += out.numel() * isqrt(entries)
        elif name in {"lstm", "gru", "rnn_tanh", "rnn_relu"}:
            weights = [w for w in args[2] if w.dim() == 2]
            self.total += sum(w.numel() for w in weights) * args[0][..., 0].numel()
        elif name == "multi_head_attention_forward":
            weights = [a for a in args if isinstance(a, nn.Parameter) and a.dim() == 2]
            self.total += sum(w.numel() for w in weights) * args[0][..., 0].numel()
        return out


def counted_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one sample, as they run."""
    was_training = model.training
    counter = FlopsCounter()
    with torch.no_grad(), counter:
        model.eval()(*inputs)
    model.train(was_training)
    return counter.total // inputs[0].shape[0]


def hooked_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """The same, counted by hooks on the modules that run."""
    total = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        transposed = getattr(layer, "transposed", False)
        total += (args[0] if transposed else out).numel() * layer.weight[0].numel()

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return total // inputs[0].shape[0]
