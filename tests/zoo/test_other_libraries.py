"""Networks of transformers and segmentation_models_pytorch go through the seams alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import amc_env
from amc_env import Split
from amc_env.agents import search
from amc_env.batches import Batch, call, tensors_in
from amc_env.env.settings import EnvSettings, RepairSettings
from amc_env.export.formats import export
from amc_env.models import find_model
from amc_env.policy import ModelSource, PrunedFacts, save_pruned
from amc_env.tasks import Classification, Segmentation, Task

HERE = "zoo.test_other_libraries"
CLASSES = 3
# At 32 pixels the deepest maps of MobileNetV2 have 4 positions, so that 24 images give its layers
# fewer rows than they have inputs, and a repair fits noise: it takes 1,000 such images to help.
LARGE = 128


def resnet_classifier() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic",
        num_labels=CLASSES,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def mobilenet_segmenter() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

    config = MobileNetV2Config(
        depth_multiplier=0.25, image_size=LARGE, num_labels=CLASSES, output_stride=16
    )
    return MobileNetV2ForSemanticSegmentation(config)


def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=CLASSES,
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config)


def smp_unet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet(
        "resnet18", encoder_depth=3, decoder_channels=(32, 16, 8), encoder_weights=None,
        classes=CLASSES,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of another library.

    Attributes:
        package: The library.
        build: Makes the network.
        task: What it is for.
        is_named: Whether it takes its images by name.
        size: Pixels along each side of its images.
    """

    package: str
    build: Callable[[], nn.Module]
    task: Task
    is_named: bool = True
    size: int = 32


CASES: Mapping[str, Case] = {
    "transformers resnet": Case(
        package="transformers", build=resnet_classifier, task=Classification(output="logits")
    ),
    "transformers mobilenet_v2": Case(
        package="transformers",
        build=mobilenet_segmenter,
        task=Segmentation(output="logits"),
        size=LARGE,
    ),
    "transformers segformer": Case(
        package="transformers", build=segformer, task=Segmentation(output="logits")
    ),
    "segmentation_models_pytorch unet": Case(
        package="segmentation_models_pytorch",
        build=smp_unet,
        task=Segmentation(),
        is_named=False,
    ),
}


def samples(case: Case, count: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, case.size, case.size, generator=generator)
    shape = (count,) if case.task.has_classes else (count, case.size, case.size)
    labels = torch.randint(CLASSES, shape, generator=generator)
    inputs: Batch = {"pixel_values": images} if case.is_named else images
    return Split(inputs=inputs, labels=labels)


# These libraries warn of their own plans.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_network_is_searched_repaired_exported_and_read_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    pytest.importorskip(case.package, reason=f"{case.package} is not installed")
    calibration, validation = samples(case, 24), samples(case, 20)
    model = with_statistics(case, calibration.inputs)
    found = search(
        model,
        calibration=Split(inputs=calibration.inputs),
        validation=validation,
        budget=0.6,
        agent="random",
        episodes=3,
        reward="kl_to_original",
        task=case.task,
        settings=EnvSettings(precision="float32", repair=RepairSettings(sampled_positions=64)),
    )
    assert len(found.episodes) == 3
    assert found.best.flops_ratio <= 0.6
    apart, masked = (
        distance(network, model, validation.inputs)
        for network in (found.compact, found.policy.apply(model))
    )
    assert apart < masked
    builder = f"{HERE}.{case.build.__name__}"
    policy = found.policy.model_copy(update={"source": ModelSource(name=builder)})
    save_pruned(tmp_path, policy, found.compact, PrunedFacts(macs=0))
    written = [
        p.name for p in export(tmp_path, ["torch_export", "csv"], out=tmp_path, model=builder)
    ]
    assert written == ["network.pt2", "layers.csv"]
    loaded = amc_env.load(tmp_path, find_model(builder).model)
    with torch.no_grad():
        both = [
            list(tensors_in(call(net.eval(), validation.inputs))) for net in (loaded, found.compact)
        ]
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def with_statistics(case: Case, inputs: Batch) -> nn.Module:
    """The network with fresh weights, whose batch norms know what they read.

    Without that, the activations of a deep network with fresh weights vanish.
    """
    torch.manual_seed(0)
    model = case.build()
    with torch.no_grad():
        for _ in range(20):
            call(model.train(), inputs)
    return model.eval()


@torch.no_grad()
def distance(network: nn.Module, original: nn.Module, inputs: Batch) -> float:
    """Squared difference of the outputs, which repair makes small, relative to the original's."""
    one, other = (next(tensors_in(call(net, inputs))) for net in (network, original))
    return float((one - other).square().sum() / other.square().sum())
