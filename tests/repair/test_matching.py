"""Which channels a cut network keeps, found by its weights alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from structure.networks import NETWORKS, build
from torch import Tensor, nn
from zoo.architectures import ARCHITECTURES
from zoo.architectures import build as build_architecture

from amc_env import ChannelGraph
from amc_env.repair.matching import kept_channels

FAST = ["cifar_resnet20", "lenet5", "unet", "squeezenet1_1"]
SLOW = [
    "published resnet56",
    "resnet18",
    "mobilenet_v2",
    "cifar_vgg16",
    "efficientnet_b0",
    "resnext50_32x4d",
    "densenet121",
    "shufflenet_v2_x1_0",
    "googlenet",
    "convnext_tiny",
]


def drawn(graph: ChannelGraph, *, seed: int = 0) -> dict[str, Tensor]:
    """Random channels of every group, in a number that the group may keep."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in graph.groups:
        count = group.counts[int(torch.randint(len(group.counts) - 1, (), generator=generator))]
        order = torch.randperm(group.channels, generator=generator)
        kept[group.name] = order[:count].sort().values
    return kept


def assert_found(graph: ChannelGraph, small: nn.Module, kept: dict[str, Tensor]) -> None:
    found = kept_channels(graph, small)
    assert {name: k.tolist() for name, k in found.items()} == {
        name: k.tolist() for name, k in kept.items()
    }


def disturbed(model: nn.Module, *, noise: float) -> nn.Module:
    """A copy with noise of so many deviations on each parameter, as fine-tuning leaves."""
    generator = torch.Generator().manual_seed(1)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = noise * parameter.square().mean().sqrt()
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_kept_channels_are_found_whatever_lies_between_layers(name: str) -> None:
    graph = ChannelGraph(*build(NETWORKS, name))
    kept = drawn(graph)
    assert_found(graph, graph.compact(kept), kept)


# Channels of its squeeze layers have so few weights that with noise some are like others.
AMBIGUOUS = {"efficientnet_b0"}


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_kept_channels_are_found_in_whole_architectures(name: str) -> None:
    graph = ChannelGraph(*build_architecture(ARCHITECTURES[name]))
    kept = drawn(graph)
    assert_found(graph, graph.compact(kept), kept)
    moved = disturbed(graph.compact(kept), noise=0.05)
    if name in AMBIGUOUS:
        with pytest.raises(ValueError, match="is nearly as much like"):
            kept_channels(graph, moved)
    else:
        assert_found(graph, moved, kept)


def test_channels_of_a_group_that_is_not_cut_are_left_out() -> None:
    graph = ChannelGraph(*build(NETWORKS, "depthwise"))
    first = graph.groups[0]
    kept = {first.name: torch.arange(1, first.channels)}
    assert_found(graph, graph.compact(kept), kept)
    assert kept_channels(graph, copy.deepcopy(graph.model)) == {}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).eval()


EXAMPLE = torch.zeros(2, 2, 8, 8)


@pytest.mark.parametrize("kept", [[0, 1, 2, 4], [1, 2, 4, 5], [0, 2, 3, 5]])
@torch.no_grad()
def test_dead_channels_may_stand_for_each_other(kept: list[int]) -> None:
    model = chain()
    for dead in (1, 3, 4):
        model[0].weight[dead] = model[0].bias[dead] = 0
        model[2].weight[:, dead] = 0
    graph = ChannelGraph(model, EXAMPLE)
    small = disturbed(graph.compact({"0": kept}), noise=0.02)
    found = kept_channels(graph, small)["0"].tolist()
    assert set(found) - {1, 3, 4} == set(kept) - {1, 3, 4}
    assert len(found) == 4


@torch.no_grad()
def test_channels_that_differ_in_their_readers_alone_are_told_apart() -> None:
    model = chain()
    model[0].weight[1:4], model[0].bias[1:4] = model[0].weight[0], model[0].bias[0]
    graph = ChannelGraph(model, EXAMPLE)
    kept = {"0": torch.tensor([0, 2, 5])}
    assert_found(graph, graph.compact(kept), kept)


def cut_by_hand(model: nn.Sequential, outputs: list[int], inputs: list[int]) -> nn.Sequential:
    """A chain whose first layer keeps some outputs and whose second layer reads some inputs."""
    small = copy.deepcopy(model)
    small[0].weight = nn.Parameter(model[0].weight.detach()[outputs])
    small[0].bias = nn.Parameter(model[0].bias.detach()[outputs])
    small[2].weight = nn.Parameter(model[2].weight.detach()[:, inputs])
    return small


def refusal(small: nn.Module, model: nn.Module | None = None) -> str:
    with pytest.raises(ValueError, match="network") as caught:
        kept_channels(ChannelGraph(model or chain(), EXAMPLE), small)
    return str(caught.value)


def test_a_layer_that_the_original_lacks_is_refused_by_name() -> None:
    small = chain().append(nn.Conv2d(5, 5, 1))
    assert "the original network has no '3.bias', nor 1 other" in refusal(small)


def test_a_layer_that_the_cut_network_lacks_is_refused_by_name() -> None:
    assert "the cut network has no '2.bias', nor 1 other" in refusal(chain()[:2])


def test_a_cut_that_the_next_layer_did_not_follow_is_refused_by_shapes() -> None:
    small = cut_by_hand(chain(), [0, 1, 2, 3], [0, 1, 2, 3, 4, 5])
    message = refusal(small)
    assert "'2.weight' has the shape (5, 6, 3, 3) in the cut network and (5, 6, 3, 3)" in message
    assert "all layers that share channels must keep the same" in message


def test_sizes_that_contradict_each_other_are_refused() -> None:
    small = cut_by_hand(chain(), [0, 1, 2, 3], [0, 1, 2])
    assert "'2.weight' has the shape (5, 3, 3, 3)" in refusal(small)


def test_outputs_that_cannot_be_cut_are_refused_with_the_reason() -> None:
    small = cut_by_hand(chain(), [0, 1], [0, 1])
    small[2].weight = nn.Parameter(small[2].weight.detach()[:4])
    small[2].bias = nn.Parameter(small[2].bias.detach()[:4])
    message = refusal(small)
    assert "'2.weight' has the shape (4, 2, 3, 3)" in message
    assert "because they are the network's output" in message


def test_a_layer_of_another_type_is_refused_by_shapes() -> None:
    small = chain()
    small[2] = nn.Linear(6, 5)
    assert "'2.weight' has the shape (5, 6) in the cut network and (5, 6, 3, 3)" in refusal(small)


def test_weights_of_another_network_are_refused_by_name() -> None:
    torch.manual_seed(7)
    small = cut_by_hand(chain(), [0, 1, 2], [0, 1, 2])
    nn.init.normal_(small[2].weight)
    message = refusal(small)
    assert "'2.weight' of the cut network, of shape (5, 3, 3, 3), matches no channels" in message


def test_a_reader_that_keeps_other_channels_is_refused() -> None:
    assert "matches no channels" in refusal(cut_by_hand(chain(), [0, 1, 2], [3, 4, 5]))


def test_channels_in_another_order_are_refused() -> None:
    assert "another order" in refusal(cut_by_hand(chain(), [5, 3, 1, 0], [5, 3, 1, 0]))


@torch.no_grad()
def test_weights_that_could_be_of_several_channels_are_refused() -> None:
    model = chain()
    for layer, axis in ((model[0], 0), (model[2], 1)):
        rows = layer.weight.movedim(axis, 0)
        apart = 0.1 * torch.randn(rows[0].shape)
        rows[0], rows[1] = rows[0] + apart, rows[0] - apart
    model[0].bias[1] = model[0].bias[0]
    small = cut_by_hand(model, [0, 2], [0, 2])
    # Half-way between two channels, of which one is gone.
    small[0].weight[0] = model[0].weight[:2].mean(0)
    small[2].weight[:, 0] = model[2].weight[:, :2].mean(1)
    assert "channel 0 of '0." in refusal(small, model)


class Summed(nn.Module):
    """Two layers whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.a(x) + self.b(x)))
        return out


def test_producers_of_a_sum_that_kept_different_channels_are_refused() -> None:
    torch.manual_seed(0)
    model = Summed().eval()
    graph = ChannelGraph(model, EXAMPLE)
    small, other = graph.compact({"a": [0, 1, 2]}), graph.compact({"a": [3, 4, 5]})
    small.get_submodule("b").load_state_dict(other.get_submodule("b").state_dict())
    with pytest.raises(ValueError, match=r"'b.weight' .* matches no channels"):
        kept_channels(graph, small)
