import pytest
import torch
import torch.nn.functional as F
from pruning import samples, tiny
from torch import Tensor, nn
from zoo.architectures import ARCHITECTURES, build

from amc_env import ChannelGraph
from amc_env.folding import Fold, folded, folds_of


class Block(nn.Module):
    """A convolution and a batch norm with statistics of its own, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.bias)
        self.norm.running_mean = torch.randn(6)
        self.norm.running_var = torch.rand(6) + 0.5
        self.eval()

    def maps(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.maps(x).relu().mean((2, 3)))
        return out


class ReadTwice(Block):
    def maps(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        out: Tensor = self.norm(before) + before
        return out


class RunTwice(Block):
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x) + self.conv(x.flip(3))


class NormTwice(Block):
    def maps(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().maps(x))
        return out


class ReadInAList(Block):
    def maps(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        return torch.stack([self.norm(before), before]).sum(0)


class ReadThroughAnAlias(Block):
    def maps(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        out: Tensor = self.norm(before) + before.data
        return out


class ChangedInPlace(Block):
    def maps(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        before.relu_()
        out: Tensor = self.norm(before)
        return out


class ReadsTheWeights(Block):
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x) + F.conv2d(x, self.conv.weight, padding=1)


class ReadsTheStatistics(Block):
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x) + self.norm.running_mean.mean()  # type: ignore[union-attr]


class AsksTheNorm(Block):
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x) / self.norm.num_features


class NormFirst(Block):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1).eval()

    def maps(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(x))
        return out


class BatchStatistics(Block):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False).eval()


def test_a_norm_that_alone_reads_a_convolution_is_folded() -> None:
    model, x = Block(), samples(5).inputs
    folds = folds_of(model, x[:2])
    assert folds == (Fold(convolution="conv", norm="norm"),)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = folded(model, folds)
    assert isinstance(small.get_submodule("norm"), nn.Identity)
    assert small.get_submodule("head").weight is model.head.weight
    with torch.no_grad():
        assert torch.allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model.norm, nn.BatchNorm2d)


def test_folded_weights_by_hand() -> None:
    # W = 3, b = 1, m = 2, v = 4, g = 6, c = 5: the factor is 6 / 2 = 3, so W' = 9 and b' = 2.
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    values = {"0.weight": 3.0, "0.bias": 1.0, "1.running_mean": 2.0, "1.running_var": 4.0,
              "1.weight": 6.0, "1.bias": 5.0}  # fmt: skip
    state = model.state_dict()
    for name, value in values.items():
        state[name].fill_(value)
    convolution = folded(model, [Fold(convolution="0", norm="1")]).get_submodule("0")
    assert convolution.weight.item() == 9.0
    assert convolution.bias.item() == 2.0


@pytest.mark.parametrize(
    "kind",
    [
        ReadTwice, RunTwice, NormTwice, ReadInAList, ReadThroughAnAlias, ChangedInPlace,
        ReadsTheWeights, ReadsTheStatistics, AsksTheNorm, NormFirst, BatchStatistics,
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_not(kind: type[Block]) -> None:
    assert folds_of(kind(), samples(2).inputs) == ()


@pytest.mark.parametrize("layer", ["conv", "norm"])
def test_layers_that_others_listen_to_are_not_folded(layer: str) -> None:
    model = Block()
    seen: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out))
    assert folds_of(model, samples(2).inputs) == ()
    assert seen


def test_a_network_whose_weights_are_computed_is_left_alone() -> None:
    model = Block()
    nn.utils.parametrizations.weight_norm(model.conv)
    assert folds_of(model, samples(2).inputs) == ()


def test_a_folded_network_that_gives_other_values_is_refused() -> None:
    class Wide(Block):
        def forward(self, x: Tensor) -> Tensor:
            # No function of torch shows that the type of a layer decides.
            return super().forward(x) * (1.0 if isinstance(self.norm, nn.BatchNorm2d) else 2.0)

    assert folds_of(Wide(), samples(2).inputs) == ()


def test_a_network_in_training_mode_is_folded_for_evaluation_and_stays_in_training() -> None:
    model = Block().train()
    assert len(folds_of(model, samples(4).inputs)) == 1
    assert model.norm.training
    assert int(model.norm.num_batches_tracked) == 0  # type: ignore[arg-type]


# How many of the norms are folded; in the others nothing but a convolution may be read by a norm.
FOLDED = {
    "cifar_resnet20": 19,
    "cifar_vgg16": 13,
    "resnet18": 20,
    "mobilenet_v2": 52,
    "unet": 5,
    "lenet5": 0,
}
SLOW = {
    "published resnet56": 55,
    "densenet121": 59,
    "googlenet": 57,
    "shufflenet_v2_x1_0": 56,
    "efficientnet_b0": 49,
    "hrnet_w18_small": 91,
    "skresnet18": 12,
    "repvgg_a0": 0,
    "convnext_tiny": 0,
    "levit_128s": 4,
}
CASES = [
    *FOLDED.items(),
    *(pytest.param(name, count, marks=pytest.mark.slow) for name, count in SLOW.items()),
]


@pytest.mark.parametrize(("name", "count"), CASES)
def test_folded_architectures_give_the_same_scores(name: str, count: int) -> None:
    model, x = build(ARCHITECTURES[name])
    folds = folds_of(model, x)
    assert len(folds) == count
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(other), folded(model, folds)(other)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_a_compact_network_is_folded_as_the_original() -> None:
    model, split = tiny(), samples(8)
    folds = folds_of(model, split.inputs[:2])
    compact = ChannelGraph(model, split.inputs[:2]).compact({"stem": torch.tensor([0, 2, 5])})
    with torch.no_grad():
        expected, found = compact(split.inputs), folded(compact, folds)(split.inputs)
    assert len(folds) == 1
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
