"""Weights of a network that nothing has trained yet."""

from typing import Any

import torch
from torch import nn


def he_init_(model: nn.Module) -> None:
    r"""Draw every convolution and linear weight so that ReLU keeps the variance of the signal.

    .. math:: W \sim N(0, 2 / n)

    ``n`` is the fan-in of one output: the inputs that it sums. Biases start at 0; norms keep
    PyTorch's scale 1 and shift 0. He et al., "Delving Deep into Rectifiers", 2015.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def forget_training_(model: nn.Module, *, seed: int) -> None:
    """Give every layer and norm fresh weights: PyTorch's own, and :func:`he_init_`'s over them.

    Raises:
        ValueError: A parameter belongs to no layer that can draw its weights anew.
    """
    able = [module for module in model.modules() if callable(_reset_of(module))]
    known = {id(p) for module in able for p in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in known:
            raise ValueError(
                f"{name} is a parameter of no layer of PyTorch's, and nothing says how it is "
                "drawn; such a network cannot be trained from scratch here"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in able:
            _reset_of(module)()
        he_init_(model)


def _reset_of(module: nn.Module) -> Any:
    return getattr(module, "reset_parameters", None)
