import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from amc_env.models import MODELS, ModelEntry, build_model, model_entry
from amc_env.models.digits_cnn import DigitsCnn

# Published figures are exact where their source is: the parameters of VGG-16, MobileNetV2 and
# ResNet-50 for CIFAR, of LeNet-5 by hand, of the ResNets in the released weights. Multiply-
# accumulates come from the layer shapes; ResNet-56 and -110 are published as 125.49 and 252.89 M.
COUNTS = {
    "cifar_vgg16": (14_728_266, 313_201_664),
    # The hidden layer of 512 adds 512 x 512 weights, 512 biases and a norm's 1,024 parameters.
    "cifar_vgg16_2fc": (14_991_946, 313_463_808),
    "cifar_resnet20": (269_722, 40_551_040),
    "cifar_resnet32": (464_154, 68_862_592),
    "cifar_resnet44": (658_586, 97_174_144),
    "cifar_resnet56": (853_018, 125_485_696),
    "cifar_resnet110": (1_727_962, 252_887_680),
    # Option B adds two 1x1 convolutions with norms, of 16 -> 32 and 32 -> 64 channels: 2,752
    # parameters and 131,072 multiply-accumulates for each.
    "cifar_resnet20_b": (272_474, 40_813_184),
    "cifar_resnet32_b": (466_906, 69_124_736),
    "cifar_resnet44_b": (661_338, 97_436_288),
    "cifar_resnet56_b": (855_770, 125_747_840),
    "cifar_resnet110_b": (1_730_714, 253_149_824),
    "cifar_resnet50": (23_520_842, 1_297_829_888),
    "cifar_mobilenet_v2": (2_296_922, 91_154_944),
    "lenet5": (61_706, 416_520),
    "digits_cnn": (33_338, 747_136),
}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> nn.Module:
    return build_model(name, seed=0).eval()


@pytest.fixture
def images(name: str) -> Tensor:
    return torch.randn(2, *MODELS[name].input_shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def counted_macs(model: nn.Module) -> Iterator[list[int]]:
    """The multiply-accumulates of every convolution and linear layer that runs, for one image."""
    macs: list[int] = []

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        macs.append(module.weight.numel() * output[0, 0].numel())

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


class TestEveryModel:
    def test_it_has_the_known_number_of_parameters(self, name: str, model: nn.Module) -> None:
        assert sum(weight.numel() for weight in model.parameters()) == COUNTS[name][0]

    def test_it_costs_the_known_multiply_accumulates(
        self, name: str, model: nn.Module, images: Tensor
    ) -> None:
        with counted_macs(model) as macs, torch.no_grad():
            model(images[:1])
        assert sum(macs) == COUNTS[name][1]

    def test_it_gives_one_finite_logit_per_class(self, model: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            logits = model(images)
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()

    def test_a_pickled_or_copied_one_computes_the_same(
        self, model: nn.Module, images: Tensor
    ) -> None:
        with torch.no_grad():
            logits = model(images[:1])
            assert torch.equal(pickle.loads(pickle.dumps(model))(images[:1]), logits)
            assert torch.equal(copy.deepcopy(model)(images[:1]), logits)

    def test_every_parameter_gets_a_gradient(self, name: str, images: Tensor) -> None:
        model = build_model(name, seed=0).train()
        model(images).square().mean().backward()
        assert all(weight.grad is not None for weight in model.parameters())

    def test_its_classes_and_image_channels_can_be_chosen(self, name: str) -> None:
        _, height, width = MODELS[name].input_shape
        model = build_model(name, num_classes=7, in_channels=2).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 2, height, width)).shape == (1, 7)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_model("digits_cnn", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([w.flatten() for w in m.parameters()]) for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_a_seed_the_weights_come_from_the_global_generator() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        one = build_model("lenet5").state_dict()
    two = build_model("lenet5", seed=3).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in two)


def test_an_unknown_name_is_refused_with_the_nearest_and_all_names() -> None:
    with pytest.raises(ValueError, match="'cifar_resnet65' does not exist") as refusal:
        build_model("cifar_resnet65")
    assert "the nearest is 'cifar_resnet56'," in str(refusal.value)
    assert all(name in str(refusal.value) for name in MODELS)


def test_a_name_like_no_other_is_refused_too() -> None:
    with pytest.raises(ValueError, match="'' does not exist; the nearest is '"):
        model_entry("")


@pytest.mark.parametrize(("num_classes", "in_channels"), [(0, 3), (10, 0)])
def test_no_classes_and_no_channels_are_refused(num_classes: int, in_channels: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes {num_classes} and in_channels"):
        build_model("lenet5", num_classes=num_classes, in_channels=in_channels)


def test_an_entry_of_an_impossible_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or more, but got \(3, 0, 32\)"):
        ModelEntry(build=DigitsCnn, input_shape=(3, 0, 32))
