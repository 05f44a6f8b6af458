"""The architectures that every claim about structure is tested on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from zoo.published_resnet import PublishedResNet
from zoo.unet import UNet

from amc_env.models import MODELS, build_model


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network, what it reads, and how long it takes to test.

    ``size`` is the height and width of an input: as small as the network allows.
    """

    source: str
    build: Callable[[], nn.Module]
    size: int
    channels: int = 3
    quick: bool = False


def _torchvision(name: str, size: int, *, quick: bool = False, **settings: Any) -> Architecture:
    build = partial(torchvision.models.get_model, name, weights=None, **settings)
    return Architecture(source="torchvision", build=build, size=size, quick=quick)


def _timm(name: str, size: int, *, quick: bool = False) -> Architecture:
    build = partial(timm.create_model, name, pretrained=False)
    return Architecture(source="timm", build=build, size=size, quick=quick)


def _package(name: str) -> Architecture:
    channels, size, _ = MODELS[name].input_shape
    quick = name in {"cifar_vgg16", "cifar_resnet20", "cifar_resnet56", "lenet5", "digits_cnn"}
    return Architecture(
        source="amc_env",
        build=partial(build_model, name),
        size=size,
        channels=channels,
        quick=quick,
    )


TORCHVISION = {
    "alexnet": _torchvision("alexnet", 64),
    "vgg16": _torchvision("vgg16", 32),
    "vgg16_bn": _torchvision("vgg16_bn", 32),
    "resnet18": _torchvision("resnet18", 32, quick=True),
    "resnet50": _torchvision("resnet50", 32),
    "wide_resnet50_2": _torchvision("wide_resnet50_2", 32),
    "resnext50_32x4d": _torchvision("resnext50_32x4d", 32, quick=True),
    "mobilenet_v2": _torchvision("mobilenet_v2", 32, quick=True),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", 32, quick=True),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", 32),
    "efficientnet_b0": _torchvision("efficientnet_b0", 32, quick=True),
    "efficientnet_v2_s": _torchvision("efficientnet_v2_s", 32),
    "densenet121": _torchvision("densenet121", 32),
    "googlenet": _torchvision("googlenet", 64, init_weights=False),
    "inception_v3": _torchvision("inception_v3", 96, init_weights=False, aux_logits=False),
    "squeezenet1_1": _torchvision("squeezenet1_1", 48, quick=True),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0", 32),
    "mnasnet1_0": _torchvision("mnasnet1_0", 32),
    "regnet_x_400mf": _torchvision("regnet_x_400mf", 32),
    "regnet_y_400mf": _torchvision("regnet_y_400mf", 32),
    "convnext_tiny": _torchvision("convnext_tiny", 32),
    "vit_b_16": _torchvision("vit_b_16", 32, image_size=32),
    "swin_t": _torchvision("swin_t", 64),
}
TIMM = {
    name: _timm(name, size)
    for name, size in {
        "resnet26d": 32,
        "seresnet18": 32,
        "skresnet18": 32,
        "ghostnet_100": 32,
        "hrnet_w18_small": 64,
        "dla34": 32,
        "res2net50_14w_8s": 32,
        "cspresnet50": 32,
        "mobilenetv4_conv_small": 32,
        "repvgg_a0": 32,
        "convnextv2_atto": 32,
        "dpn68b": 32,
        "vovnet39a": 32,
        "mixnet_s": 32,
        "resnest14d": 64,
        "xception41": 64,
        "levit_128s": 224,
        "deit_tiny_patch16_224": 224,
    }.items()
}
OWN = {
    "published resnet56": Architecture(
        source="tests", build=partial(PublishedResNet, 56), size=32, quick=True
    ),
    "unet": Architecture(source="tests", build=UNet, size=16, quick=True),
}
ARCHITECTURES: dict[str, Architecture] = {
    **{name: _package(name) for name in MODELS},
    **OWN,
    **TORCHVISION,
    **TIMM,
}


def build(architecture: Architecture) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, with outputs of a sensible size, and an input for it.

    Fresh networks of dozens of layers give outputs near 0 or 1e9, where a relative difference says
    nothing; so norms get uneven weights and the statistics of one random batch. A layer that
    starts at zero, such as the head of a vision transformer, would hide every difference.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture.build()
        shape = (architecture.channels, architecture.size, architecture.size)
        for parameter in model.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                nn.init.uniform_(parameter, 0.25, 0.75)
            elif not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        _settle_norms_(model, torch.randn(4, *shape))
        return model.eval(), torch.randn(2, *shape)


@torch.no_grad()
def _settle_norms_(model: nn.Module, batch: Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # At a single pixel a batch of one would have no variance.
    model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
