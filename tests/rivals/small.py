"""A small chain of convolutions and norms whose statistics are those of its inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph, Split
from amc_env.criteria import make_criterion
from amc_env.repair import Pruner, RepairSettings
from amc_env.repair.norms import reestimate_norms_
from benchmarks.rivals.methods import Task

WIDTH = 8


def images(count: int = 40) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def chain(*, width: int = WIDTH) -> nn.Sequential:
    """Convolution, norm and ReLU twice, then the mean over pixels and a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    reestimate_norms_(model, [images()])
    return model.eval()


def graph_of(model: nn.Module) -> ChannelGraph:
    return ChannelGraph(model, images(2))


def task(counts: Mapping[str, int]) -> Task:
    split = Split(inputs=images(), labels=torch.arange(40) % 4)
    settings = RepairSettings(repair="plain", match_residual_sums=False)
    pruner = Pruner(graph_of(chain()), split, make_criterion("l2"), repair=settings)
    return Task(pruner=pruner, counts=counts, images=split.inputs)


@torch.no_grad()
def copy_channels_(model: nn.Sequential, place: int, *, before: float, behind: float) -> None:
    """Make the second half of a convolution's channels multiples of the first half.

    Args:
        model: A chain.
        place: Where the convolution stands in it; its norm follows.
        before: The factor before the norm, whose statistics grow with it.
        behind: The factor behind the norm.
    """
    layer, norm = model[place], model[place + 1]
    first, second = slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)
    layer.weight[second] = before * layer.weight[first]
    if layer.bias is not None:
        layer.bias[second] = before * layer.bias[first]
    norm.running_mean[second] = before * norm.running_mean[first]
    norm.running_var[second] = before**2 * (norm.running_var[first] + norm.eps) - norm.eps
    norm.weight[second] = behind * norm.weight[first]
    norm.bias[second] = behind * norm.bias[first]
