"""Which layers the rewards from entropy read, on a network whose maps can be written down."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from amc_env import ChannelGraph, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating
from amc_env.models.cifar_resnet import CifarResNet
from amc_env.rewards import NetworkLayers, WeightedSum, make_reward
from amc_env.rewards.layers import LayerChoice

# Entropies in bits of a pixel that is in the smaller of two bins this often of eight times.
H1, H2, H3, H4 = 0.5435644432, 0.8112781245, 0.9544340029, 1.0


def pointwise(weights: list[list[float]], bias: list[float]) -> nn.Conv2d:
    layer = nn.Conv2d(len(weights[0]), len(weights), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights)[:, :, None, None])
        layer.bias.copy_(torch.tensor(bias))
    return layer


class Residual(nn.Module):
    """A trunk of one channel, beside which ``inner`` has two that can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = pointwise([[1.0]], [0.0])
        self.inner = pointwise([[1.0], [-1.0]], [-2.0, 1.0])
        self.outer = pointwise([[1.0, 2.0]], [0.0])
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.relu(self.stem(x))
        trunk = self.relu(trunk + self.outer(self.relu(self.inner(trunk))))
        out: Tensor = self.head(trunk.mean((2, 3)))
        return out


# All maps of two samples with four pixels each, with the greatest value of the lower bin in
# brackets, and the entropy of two bins that follows:
#
#               own output                               after the activation
# stem    -4 -4 -4 -1  1  1  2  4  (0)    H4      0  0  0  0  1  1  2  4  (2)    H2
# inner   -2 -2 -2 -2 -1 -1  0  2  (0)    H2      0  0  0  0  0  0  0  2  (1)    H1
#          1  1  1  1  0  0 -1 -3  (-1)   H1      1  1  1  1  0  0  0  0  (0.5)  H4
# outer    2  2  2  2  0  0  0  2  (1)    H3      2  2  2  2  1  1  2  6  (3.5)  H1
PIXELS = torch.tensor([-4.0, -4, -4, -1, 1, 1, 2, 4]).view(2, 1, 2, 2)
BEFORE = {"stem": H4, "inner": (H2 + H1) / 2, "outer": H3}
AFTER = {"stem": H2, "inner": (H1 + H4) / 2, "outer": H1}
READ: dict[LayerChoice, tuple[str, ...]] = {
    "all": ("stem", "inner", "outer"),
    "pruned": ("inner",),
    "outputs": ("stem", "outer"),
    "last": ("outer",),
    ("outer", "inner"): ("outer", "inner"),
}


def residual_env(reward: object = "loss") -> ChannelPruningEnv:
    torch.manual_seed(0)
    split = Split(inputs=PIXELS, labels=torch.tensor([0, 1]))
    return ChannelPruningEnv(
        model=Residual().eval(),
        data=PruningData(calibration=split, validation=split),
        reward=reward,
        settings=EnvSettings(ignore=("stem",), precision="float32"),
    )


ENV = residual_env()


@pytest.mark.parametrize("layers", READ)
@pytest.mark.parametrize(("before", "each"), [(False, AFTER), (True, BEFORE)])
def test_each_choice_reads_its_layers_and_no_other(
    layers: LayerChoice, before: bool, each: dict[str, float]
) -> None:
    options = {"bins": 2, "layers": layers, "before_activation": before}
    paid = make_reward("univariate_entropy", options)(ENV.context(ENV.graph.model, {"inner": 2}))
    mean = sum(each[name] for name in READ[layers]) / len(READ[layers])
    assert paid == pytest.approx(1 - mean, abs=1e-6)


def test_the_maps_are_those_of_the_compact_network() -> None:
    # Without its first channel, ``inner`` has 1 or 0, and ``outer`` 2 or 0 before the trunk is
    # added; after it 2 2 2 2 1 1 2 4, of which one is above 2.5.
    compact = ENV.graph.compact({"inner": [1]})
    given = ENV.context(compact, {"inner": 1})
    for before, mean in ((False, (H2 + H4 + H1) / 3), (True, (H4 + H1 + H4) / 3)):
        reward = make_reward("univariate_entropy", {"bins": 2, "before_activation": before})
        assert reward(given) == pytest.approx(1 - mean, abs=1e-6)


def test_the_spatial_entropies_read_the_same_layers() -> None:
    given = ENV.context(ENV.graph.model, {"inner": 2})

    def paid(name: str, layers: LayerChoice) -> float:
        return make_reward(name, {"bins": 4, "layers": layers})(given)

    each = {name: paid("spatial_entropy", [name]) for name in ("stem", "inner", "outer")}
    assert len(set(each.values())) == 3
    for layers, names in READ.items():
        mean = sum(each[name] for name in names) / len(names)
        assert paid("spatial_entropy", layers) == pytest.approx(mean)
        assert paid("spatial_entropy_max", layers) == pytest.approx(1 - mean)


def test_single_maps_may_be_pooled_and_constant_channels_counted() -> None:
    # One map of the first channel is constant and left out. The other, 0 0 / 0 2, has the pairs
    # (0, 0) and (0, 2) in both directions: H = 1, H(0) = 1/2, and their AME is 1. Both maps of the
    # second channel are constant, so that its AME is 0.
    given = ENV.context(ENV.graph.model, {"inner": 2})
    options = {"bins": 2, "layers": ["inner"], "pool": "sample"}
    assert make_reward("spatial_entropy", options)(given) == pytest.approx(0.5)
    compact = ENV.graph.compact({"inner": [0, 1]})
    with torch.no_grad():
        # A constant channel has no entropy: left out, or counted as 0 unless it is 0 itself.
        compact.inner.weight[0], compact.inner.bias[0] = 0.0, 3.0
    given = ENV.context(compact, {"inner": 2})
    for dead, mean in (("constant", H4), ("zero", H4 / 2)):
        options = {"bins": 2, "layers": ["inner"], "dead": dead}
        assert make_reward("univariate_entropy", options)(given) == pytest.approx(1 - mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "outer"}, r"^layers 'outer' does not exist; the nearest is 'outputs', choose"),
        ({"layers": []}, r"^layers is \[\]; give all, pruned, outputs, last, or names of layers"),
        ({"layers": 3}, r"^layers is 3; give all"),
        ({"layers": [0.5]}, r"^layers is \[0.5\]; give all"),
        ({"layers": ["stem", "stem"]}, r"^layers names 'stem' twice; give every layer once$"),
        ({"dead": "zeros"}, r"^dead 'zeros' does not exist; the nearest is 'zero'"),
    ],
)
@pytest.mark.parametrize("name", ["spatial_entropy", "spatial_entropy_max", "univariate_entropy"])
def test_an_option_that_is_none_is_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_reward(name, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "samples"}, "pool 'samples' does not exist; the nearest is 'sample'"),
        ({"scope": "maps"}, "scope 'maps' does not exist; the nearest is 'map'"),
        ({"h0": "pairs"}, "h0 'pairs' does not exist; the nearest is 'pair'"),
    ],
)
def test_an_option_of_the_spatial_entropy_that_is_none_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_reward("spatial_entropy", options)


def test_a_layer_that_does_not_exist_is_refused_before_the_network_is_calibrated() -> None:
    reward = make_reward("univariate_entropy", {"layers": ["iner"]})
    part = WeightedSum(parts={"wrong": reward}, weights={"wrong": 1.0})
    message = "layers names 'iner', but no .*; the nearest is 'inner', choose among stem, inner, "
    for refused in (reward, part):
        with pytest.raises(ValueError, match=message):
            residual_env(refused)
        with pytest.raises(ValueError, match=message):
            ENV.use_reward_(refused)


class Kinds(nn.Module):
    """A depthwise and a transposed convolution, one that runs twice, and some that are special."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.up, self.normed = nn.ConvTranspose2d(6, 5, 2), weight_norm(nn.Conv2d(5, 4, 1))
        self.bare = nn.Parameter(torch.randn(3, 4, 1, 1))
        self.computed = nn.Parameter(torch.randn(3, 3, 1, 1))
        self.head, self.idle = nn.Linear(3, 4), nn.Conv2d(1, 1, 1)
        self.aux = nn.Sequential(nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.depthwise(self.stem(x).relu())
        x = side = self.twice(self.twice(x).relu()).relu()
        x = F.conv2d(self.normed(self.up(x)).relu(), self.bare).relu()
        x = F.conv2d(x, self.computed.tanh() * self.computed)
        out: Tensor = self.head(x.mean((2, 3)))
        return (out, self.aux(side)) if self.training else out


def test_convolutions_of_every_kind_count_where_they_first_run() -> None:
    torch.manual_seed(0)
    graph = ChannelGraph(Kinds().eval(), torch.randn(2, 1, 9, 9))
    layers = NetworkLayers.of(graph)
    assert layers.chosen("all") == ("stem", "depthwise", "twice", "up", "normed", "bare")
    assert layers.chosen("last") == ("bare",)
    # The auxiliary head is pruned, but only training runs it.
    assert "aux.0" in {p.module for g in graph.groups for p in g.producers}
    assert layers.chosen("pruned") == ("stem", "twice", "up", "normed")
    # What a depthwise convolution puts out leaves with the channels that it reads. Layers whose
    # weights are computed, and those that they read, are not pruned; under a weight norm, weights
    # are stored.
    assert layers.chosen("outputs") == ("bare",)
    assert layers.chosen(["head", "up"]) == ("head", "up")
    for name in ("aux.0", "idle", "computed"):
        with pytest.raises(ValueError, match=f"layers names '{name}', but no convolution or lin"):
            layers.chosen([name])
    with evaluating(graph.model):
        feature_maps(graph.model, layers.names, graph.inputs[0])


def test_a_network_without_a_convolution_is_read_at_its_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    layers = NetworkLayers.of(ChannelGraph(model.eval(), torch.randn(2, 6)))
    chosen = {name: layers.chosen(name) for name in ("all", "pruned", "outputs", "last")}
    assert chosen == {
        "all": ("0", "2", "4"),
        "pruned": ("0", "2"),
        "outputs": ("4",),
        "last": ("4",),
    }
    # A command line reads the names of these modules as numbers.
    assert layers.chosen([0, 4]) == ("0", "4")


def resnet_layers(*, shortcut: str, ignore: tuple[str, ...] = ()) -> NetworkLayers:
    model = CifarResNet(8, shortcut=shortcut).eval()
    return NetworkLayers.of(ChannelGraph(model, torch.randn(2, 3, 16, 16), ignore=ignore))


def test_the_outputs_of_a_residual_network_are_its_trunk_where_nothing_prunes_it() -> None:
    layers = resnet_layers(shortcut="A", ignore=("conv1",))
    assert layers.chosen("pruned") == tuple(f"layer{n}.0.conv1" for n in (1, 2, 3))
    assert layers.chosen("outputs") == ("conv1", *(f"layer{n}.0.conv2" for n in (1, 2, 3)))
    assert set(layers.chosen("all")) == {*layers.pruned, *layers.outputs}


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_trunk_of_which_some_channels_are_pruned_is_no_output(shortcut: str) -> None:
    # With shortcuts of zeros, a part of the channels of the deeper stages cannot be cut.
    layers = resnet_layers(shortcut=shortcut)
    assert set(layers.chosen("pruned")) == set(layers.chosen("all"))
    with pytest.raises(ValueError, match="layers is 'outputs', but the network has no such layer"):
        layers.chosen("outputs")
