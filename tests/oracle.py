"""What a cut must equal: the original with the channels silenced wherever they are read."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph


def masked(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> nn.Module:
    """The original network, with zero weights where a consumer reads a channel that goes.

    It is as large as the original and knows nothing of how channels are cut: only the positions
    on the consumers' input axes are used.
    """
    model = copy.deepcopy(graph.model)
    modules = dict(model.named_modules())
    for name, indices in kept.items():
        group = graph.group(name)
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[indices] = False
        for consumer in group.consumers:
            silence_(modules[consumer.module], consumer.positions[gone].flatten())
    return model


@torch.no_grad()
def silence_(layer: nn.Module, inputs: Tensor) -> None:
    """Set the weights of a conv or linear layer that read ``inputs`` to zero."""
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        weight[:, inputs] = 0
    elif layer.transposed:
        weight[inputs] = 0
    else:
        outputs, width = weight.shape[0] // layer.groups, weight.shape[1]
        for index in inputs.tolist():
            part = index // width
            weight[part * outputs : (part + 1) * outputs, index % width] = 0


def counted_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of conv and linear modules for one sample, counted by hooks."""
    total = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += out.numel() * layer.in_features
        elif layer.transposed:
            total += args[0].numel() * layer.weight[0].numel()
        else:
            total += out.numel() * layer.weight[0].numel()

    def count_attention(layer: nn.Module, args: tuple[Tensor, ...], _: object) -> None:
        nonlocal total
        weights = (layer.in_proj_weight, layer.out_proj.weight)
        total += sum(w.numel() for w in weights) * args[0][..., 0].numel()

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    handles += [
        m.register_forward_hook(count_attention)
        for m in model.modules()
        if isinstance(m, nn.MultiheadAttention)
    ]
    was_training = model.training
    with torch.no_grad():
        model.eval()(*inputs)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return total // inputs[0].shape[0]
