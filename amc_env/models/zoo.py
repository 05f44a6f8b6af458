"""The package's own networks by name: how each is built, and the images that it reads."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import torch
from torch import nn

from amc_env.models.cifar_bottleneck import CifarResNet50
from amc_env.models.cifar_mobilenet_v2 import CifarMobileNetV2
from amc_env.models.cifar_resnet import CifarResNet
from amc_env.models.digits_cnn import DigitsCnn
from amc_env.models.lenet import LeNet5
from amc_env.models.vgg import CifarVgg
from amc_env.names import check_name


class Constructor(Protocol):
    """A function that builds a network; its further arguments have defaults."""

    def __call__(self, *, num_classes: int, in_channels: int) -> nn.Module:
        """A network with fresh weights, in training mode."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One line of the table of networks.

    ``input_shape`` is (channels, height, width) of the images that the network is made for.
    """

    build: Constructor
    input_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1:
            raise ValueError(
                f"every number of an input_shape must be 1 or more, but got {self.input_shape}"
            )


CIFAR = (3, 32, 32)
CIFAR_RESNET_DEPTHS = (20, 32, 44, 56, 110)

MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "cifar_vgg16": ModelEntry(build=CifarVgg, input_shape=CIFAR),
        "cifar_vgg16_2fc": ModelEntry(build=partial(CifarVgg, hidden=512), input_shape=CIFAR),
        **{
            f"cifar_resnet{depth}": ModelEntry(build=partial(CifarResNet, depth), input_shape=CIFAR)
            for depth in CIFAR_RESNET_DEPTHS
        },
        **{
            f"cifar_resnet{depth}_b": ModelEntry(
                build=partial(CifarResNet, depth, shortcut="B"), input_shape=CIFAR
            )
            for depth in CIFAR_RESNET_DEPTHS
        },
        "cifar_resnet50": ModelEntry(build=CifarResNet50, input_shape=CIFAR),
        "cifar_mobilenet_v2": ModelEntry(build=CifarMobileNetV2, input_shape=CIFAR),
        "lenet5": ModelEntry(build=LeNet5, input_shape=(1, 28, 28)),
        "digits_cnn": ModelEntry(build=DigitsCnn, input_shape=(1, 8, 8)),
    }
)


def model_entry(name: str) -> ModelEntry:
    """The line of the table for ``name``.

    Raises:
        ValueError: The table has no such name.
    """
    check_name("model", name, MODELS)
    return MODELS[name]


def build_model(
    name: str, *, num_classes: int = 10, in_channels: int | None = None, seed: int | None = None
) -> nn.Module:
    """A network by name, with fresh weights, in training mode.

    Args:
        name: A name from ``MODELS``.
        num_classes: Outputs of the last layer.
        in_channels: Channels of an image; by default those of the network's ``input_shape``.
        seed: Seed of the fresh weights; torch's global generators stay as they were. Without a
            seed the weights are drawn from the global generator.

    Raises:
        ValueError: The name does not exist, or a number is below 1.
    """
    entry = model_entry(name)
    if in_channels is None:
        in_channels = entry.input_shape[0]
    if min(num_classes, in_channels) < 1:
        raise ValueError(
            "num_classes and in_channels must be 1 or more, "
            f"but got num_classes {num_classes} and in_channels {in_channels}"
        )
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return entry.build(num_classes=num_classes, in_channels=in_channels)
