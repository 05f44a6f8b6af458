import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.calibration.feature_maps import feature_maps, map_gradients


class Block(nn.Module):
    """A stem, a residual block with a gate, pooling, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        stem = F.relu(self.norm(self.stem(x)))
        a = F.silu(self.a(stem))
        b = (stem + self.b(a)).relu_()
        down = F.hardtanh(self.down(F.max_pool2d(b, 3, stride=1, padding=1)))
        return {"stem": stem, "a": a, "b": b, "down": down, "head": self.head(down.mean((2, 3)))}

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)["head"]


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


def test_maps_are_those_after_norm_and_activation(block: Block) -> None:
    x = torch.randn(2, 3, 6, 6)
    maps = feature_maps(block, ["stem", "a", "b", "down", "head"], x)
    expected = block.parts(x)
    for name in ("stem", "a", "b", "down"):
        assert torch.equal(maps[name], expected[name]), name
    assert torch.equal(maps["head"], expected["head"][:, :, None, None])


def test_maps_before_the_activation_are_the_layers_own_outputs() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
    net = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.BatchNorm2d(2), nn.Tanh()).eval()
    x = torch.randn(2, 3, 6, 6)
    maps = feature_maps(net, ["0", "2"], x, before_activation=True)
    # An activation in place leaves no trace in what it reads.
    assert torch.equal(maps["0"], first(x))
    assert torch.equal(maps["2"], second(first(x).relu()))
    functional = Functional()
    maps = feature_maps(functional, ["first"], x, before_activation=True)
    assert torch.equal(maps["first"], F.conv2d(x, functional.first))


def test_a_layer_with_one_dimension_of_space_has_two() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU())
    assert feature_maps(net, ["0"], torch.randn(5, 2, 9))["0"].shape == (5, 3, 1, 7)


def test_a_layer_that_runs_twice_is_heard_the_first_time() -> None:
    conv = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(feature_maps(net, ["0"], x)["0"], conv(x).relu())


def test_gradients_are_those_at_the_maps_and_nowhere_else(block: Block) -> None:
    x = torch.randn(2, 3, 6, 6)
    maps, gradients = map_gradients(block, "a", x, lambda out: out.square().sum())
    step = 1e-3
    moved = maps.clone()
    moved[1, 2, 3, 3] += step

    def loss(a: Tensor) -> float:
        stem = F.relu(block.norm(block.stem(x)))
        down = F.hardtanh(block.down(F.max_pool2d((stem + block.b(a)).relu(), 3, 1, 1)))
        return block.head(down.mean((2, 3))).double().square().sum().item()

    assert (loss(moved) - loss(maps)) / step == pytest.approx(
        gradients[1, 2, 3, 3].item(), abs=2e-2
    )
    assert all(p.grad is None for p in block.parameters())
    assert not x.requires_grad


def test_nothing_is_left_behind(block: Block) -> None:
    block.train()
    with torch.no_grad():
        feature_maps(block, ["a"], torch.randn(2, 3, 6, 6))
    with pytest.raises(ValueError, match="cannot run on calibration samples"):
        feature_maps(block, ["a"], torch.randn(2, 5, 6, 6))
    assert block.training
    assert not any(m._forward_hooks for m in block.modules())


def test_bad_requests_are_refused(block: Block) -> None:
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        feature_maps(block, ["nowhere"], torch.randn(2, 3, 6, 6))
    block.idle = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="'idle' did not run"):
        feature_maps(block, ["idle"], torch.randn(2, 3, 6, 6))
    with pytest.raises(ValueError, match="'a' hold NaN"):
        feature_maps(block, ["a"], torch.full((2, 3, 6, 6), float("nan")))


class Functional(nn.Module):
    """Layers that are functions of parameters, one of them owned by a module that does more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.matrix = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.eye(4))
        self.left = nn.Parameter(torch.randn(5, 4))
        self.last = nn.ParameterList([torch.randn(2, 5)])

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        first = F.conv2d(x, self.first).relu()
        matrix = torch.einsum("bchw,oc->bohw", first, self.matrix).tanh()
        left = (self.left @ matrix.flatten(2)).relu()
        return {"first": first, "matrix": matrix, "left": left, "last.0": left.mT @ self.last[0].T}

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)["last.0"]


def test_maps_of_layers_without_a_module_begin_where_their_weight_is_used() -> None:
    net, x = Functional(), torch.randn(2, 3, 6, 6)
    maps, parts = feature_maps(net, ["first", "matrix", "left", "last.0"], x), net.parts(x)
    assert torch.equal(maps["first"], parts["first"])
    assert torch.equal(maps["matrix"], parts["matrix"])
    assert torch.equal(maps["left"], parts["left"][:, :, None])
    assert torch.equal(maps["last.0"], parts["last.0"].mT[:, :, None])
