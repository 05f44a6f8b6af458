"""Maps that are asked for in turn are those of each layer alone, from fewer passes."""

import pytest
import torch
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration.ahead import MapsAhead
from amc_env.calibration.feature_maps import feature_maps
from amc_env.models import build_model


class Chain(nn.Module):
    """Three convolutions; counts the samples that run through it, but for the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.unused = nn.Conv2d(4, 4, 1)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) > 2
        out: Tensor = self.c(self.b(self.a(x).relu()).relu())
        return out


X = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(0))
# The bytes of one layer's maps on all samples.
ONE = X.nbytes


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain().eval()


def alone(model: nn.Module, layer: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([feature_maps(model, [layer], x)[layer] for x in X.split(5)])


@pytest.mark.parametrize(
    ("most", "passes"), [(0, [1, 2, 3]), (2 * ONE, [1, 1, 2]), (3 * ONE, [1, 1, 1])]
)
def test_a_pass_serves_as_many_layers_as_may_be_held(
    most: int, passes: list[int], chain: Chain
) -> None:
    ahead = MapsAhead(chain, X.split(5), ["a", "b", "c"], most_bytes=most)
    for layer, expected in zip("abc", passes, strict=True):
        assert torch.equal(ahead.take(layer), alone(chain, layer))
        # Two batches each, and as many for what they are compared with.
        assert chain.passes == 2 * expected + 2 * ("abc".index(layer) + 1)


def test_maps_are_held_until_nobody_asks_for_them_again(chain: Chain) -> None:
    ahead = MapsAhead(chain, X.split(5), ["a", "b", "a"])
    found = [ahead.take(layer) for layer in "aba"]
    assert torch.equal(found[0], found[2])
    assert chain.passes == 2
    ahead.take("a")
    assert chain.passes == 4


def test_the_first_samples_alone_are_run(chain: Chain) -> None:
    ahead = MapsAhead(chain, X.split(5), ["a", "b", "a"])
    for layer in "ab":
        assert torch.allclose(ahead.take(layer, samples=4), alone(chain, layer)[:4], atol=1e-6)
    assert torch.allclose(ahead.take("a", samples=9), alone(chain, "a")[:9], atol=1e-6)
    # A batch, two batches, and three times two that they are compared with.
    assert chain.passes == 1 + 2 + 6


def test_layers_that_are_left_out_are_not_held(chain: Chain) -> None:
    ahead = MapsAhead(chain, X.split(5), ["a", "b", "c"], most_bytes=2 * ONE)
    ahead.take("a")
    assert torch.equal(ahead.take("c"), alone(chain, "c"))
    assert torch.equal(ahead.take("b"), alone(chain, "b"))


def test_a_layer_is_not_to_blame_for_a_later_one(chain: Chain) -> None:
    ahead = MapsAhead(chain, X.split(5), ["a", "unused"])
    assert torch.equal(ahead.take("a"), alone(chain, "a"))
    with pytest.raises(ValueError, match="'unused' did not run"):
        ahead.take("unused")


@pytest.mark.parametrize("name", [*NETWORKS, "cifar_resnet20", "cifar_mobilenet_v2"])
def test_all_layers_at_once_have_the_maps_of_each_alone(name: str) -> None:
    if name in NETWORKS:
        model, x = build(NETWORKS, name)
    else:
        model, x = build_model(name, seed=0).eval(), torch.randn(3, 3, 32, 32)
    graph = ChannelGraph(model, x)
    layers = [producer.module for group in graph.groups for producer in group.producers]
    ahead = MapsAhead(model, [x], layers)
    with torch.no_grad():
        for layer in layers:
            assert torch.equal(ahead.take(layer), feature_maps(model, [layer], x)[layer])
