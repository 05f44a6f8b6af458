"""Weights of a network that nothing has trained yet."""

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
