"""Blurs, recurrent layers, norms over channels without a norm's module, and normed weights."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import counted_flops, masked
from structure.networks import Net, conv
from structure.test_graph import random_kept
from torch import Tensor, nn

from amc_env import Budget, ChannelGraph
from amc_env.agents import search

IMAGE = (2, 3, 8, 8)


class AttributeBlur(nn.Module):
    """A blur with a filter for each channel, whose number it keeps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filter", torch.ones(channels, 1, 3, 3) / 9, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.filter, stride=2, groups=self.channels)


class RepeatedBlur(nn.Module):
    """A blur with one filter, repeated for the channels that come."""

    def __init__(self, *, by_expand: bool) -> None:
        super().__init__()
        self.by_expand = by_expand
        self.register_buffer("filter", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        times = (x.shape[1], 1, 1, 1) if not self.by_expand else (x.shape[1], -1, -1, -1)
        weight = self.filter.expand(times) if self.by_expand else self.filter.repeat(times)
        return F.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])


class Recurrent(nn.Module):
    """A convolution along time, a recurrent layer, and a head on its last step and states."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.is_first = settings.get("batch_first", False)
        self.stem = nn.Conv1d(3, 8, 3, padding=1)
        self.inner = nn.Conv1d(8, 6, 3, padding=1)
        self.recurrent = kind(6, 5, **settings)
        self.head = nn.Linear(5 * (2 if settings.get("bidirectional") else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.inner(self.stem(x).relu()).relu().permute(0, 2, 1)
        out, _ = self.recurrent(steps if self.is_first else steps.transpose(0, 1))
        return self.head(out[:, -1] if self.is_first else out[-1])


def blurred(blur: nn.Module) -> nn.Module:
    return Net(lambda n, x: n.out(n.blur(x).relu()), 6, blur=blur, out=conv(8, 6))


SAME: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "blur with a kept number": (lambda: blurred(AttributeBlur(8)), IMAGE),
    "blur by repeat": (lambda: blurred(RepeatedBlur(by_expand=False)), IMAGE),
    "blur by expand": (lambda: blurred(RepeatedBlur(by_expand=True)), IMAGE),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 3, 7)),
    "deep lstm both ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True),
        (2, 3, 7),
    ),
    "gru": (lambda: Recurrent(nn.GRU, batch_first=True), (2, 3, 7)),
    "plain recurrent": (lambda: Recurrent(nn.RNN, nonlinearity="relu", bias=False), (2, 3, 7)),
    "magnitudes of maps": (
        lambda: Net(
            lambda n, x: n.out(x * n.gate(x.norm(dim=(2, 3), keepdim=True)).sigmoid()),
            6,
            gate=nn.Conv2d(8, 8, 1),
            out=conv(8, 6),
        ),
        IMAGE,
    ),
}


def response_norm(net: nn.Module, x: Tensor) -> Tensor:
    across = x.norm(p=2, dim=(2, 3), keepdim=True)
    return net.out(x + net.gamma * x * across / (across.mean(1, keepdim=True) + 1e-6))


def response_norm_last(net: nn.Module, x: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    across = torch.linalg.vector_norm(x, ord=2, dim=(1, 2), keepdim=True)
    x = net.scale * (x * (across / (across.mean(dim=-1, keepdim=True) + 1e-6))) + x
    return net.out(x.permute(0, 3, 1, 2))


def alike(net: nn.Module, x: Tensor) -> Tensor:
    return net.out(x) * F.cosine_similarity(x, x.flip(3), dim=1)[:, None]


def response_normed(forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    return Net(
        forward,
        6,
        gamma=nn.Parameter(torch.rand(1, 8, 1, 1)),
        scale=nn.Parameter(torch.rand(8)),
        out=conv(8, 6),
    )


NORMED: dict[str, Callable[[], nn.Module]] = {
    "global response norm": lambda: response_normed(response_norm),
    "global response norm, channels last": lambda: response_normed(response_norm_last),
    "normalize": lambda: Net(lambda n, x: n.out(F.normalize(x, dim=1)), 6, out=conv(8, 6)),
    "vector norm": lambda: Net(
        lambda n, x: n.out(x / (x.norm(dim=1, keepdim=True) + 0.1)), 6, out=conv(8, 6)
    ),
    "cosine similarity": lambda: Net(alike, 6, out=conv(8, 6)),
}


def drawn(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval(), torch.randn(shape)


@pytest.mark.parametrize("name", SAME)
def test_a_compact_network_equals_the_masked_one(name: str) -> None:
    model, x = drawn(*SAME[name])
    graph = ChannelGraph(model, x)
    assert not any(group.has_channel_norm for group in graph.groups)
    first = "inner" if isinstance(model, Recurrent) else "stem"
    assert first in {group.name for group in graph.groups}
    for seed in range(5):
        kept = random_kept(graph, seed)
        with torch.no_grad():
            expected, got = masked(graph, kept)(x), graph.compact(kept)(x)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in SAME if " by " not in name])
def test_the_cost_is_the_counted_cost(name: str) -> None:
    model, x = drawn(*SAME[name])
    check_costs(model, x)


def check_costs(model: nn.Module, x: Tensor) -> None:
    graph = ChannelGraph(model, x)
    for seed in range(3):
        kept = random_kept(graph, seed)
        compact = graph.compact(kept)
        cost = graph.cost({group: len(indices) for group, indices in kept.items()})
        assert cost.flops == counted_flops(compact, (x,))
        assert cost.params == sum(p.numel() for p in compact.parameters())


@pytest.mark.parametrize("name", NORMED)
def test_norms_over_channels_keep_shapes_and_costs_exact(name: str) -> None:
    model, x = drawn(NORMED[name], IMAGE)
    graph = ChannelGraph(model, x)
    assert {g.name: g.has_channel_norm for g in graph.groups} == {"stem": True, "out": False}
    check_costs(model, x)
    with torch.no_grad():
        whole = graph.compact({g.name: range(g.channels) for g in graph.groups})
        assert torch.equal(whole(x), model(x))
        assert graph.compact({"stem": [3], "out": [0, 5]})(x).isfinite().all()


def test_a_recurrent_layer_of_packed_steps_keeps_its_channels() -> None:
    class Packed(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            steps = self.inner(self.stem(x).relu()).relu().permute(0, 2, 1)
            packed = nn.utils.rnn.pack_padded_sequence(steps, torch.tensor([7, 5]), True)
            return self.head(self.recurrent(packed)[1][-1])

    model, x = drawn(lambda: Packed(nn.GRU, batch_first=True), (2, 3, 7))
    graph = ChannelGraph(model, x)
    assert [group.name for group in graph.groups] == ["stem"]


def two_convolutions(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return nn.Sequential(
            norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), norm(nn.Conv2d(8, 6, 3)), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        )  # fmt: skip

    return make


WEIGHT_NORMS = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "older weight norm": nn.utils.weight_norm,
    "older spectral norm": nn.utils.spectral_norm,
}


# torch warns that two of these go away.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", WEIGHT_NORMS)
def test_weights_under_a_norm_are_stored_as_they_are(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = drawn(two_convolutions(WEIGHT_NORMS[name]), IMAGE)
    with torch.no_grad():
        expected = model(x)
    names = [key for key, _ in model.named_parameters()]
    with caplog.at_level(logging.WARNING):
        graph = ChannelGraph(model, x)
    assert "weight or spectral norm computes the weights of 0, 2" in caplog.text
    assert [group.name for group in graph.groups] == ["0", "2"]
    compact = graph.compact({"0": [1, 2, 7], "2": [0, 5]})
    plain = two_convolutions(lambda layer: layer)()
    assert {key for key, _ in compact.named_parameters()} == {
        key for key, _ in plain.named_parameters()
    }
    assert all(parameter.requires_grad for parameter in compact.parameters())
    with torch.no_grad():
        whole = graph.compact({"0": range(8), "2": range(6)})
        assert torch.allclose(whole(x), expected, atol=1e-6)
        assert torch.equal(model(x), expected)
    assert [key for key, _ in model.named_parameters()] == names
    copy.deepcopy(compact)


def test_a_network_under_weight_norm_is_searched_and_its_policy_applied() -> None:
    model, x = drawn(two_convolutions(nn.utils.parametrizations.weight_norm), (12, 3, 8, 8))
    labels = torch.arange(12) % 4
    found = search(
        model,
        calibration=(x[:6], labels[:6]),
        validation=(x[6:], labels[6:]),
        budget=Budget(flops=0.6),
        agent="uniform",
    )
    shapes = {key: value.shape for key, value in found.compact.state_dict().items()}
    applied = found.policy.apply(model).state_dict()
    assert {key: value.shape for key, value in applied.items()} == shapes
    assert shapes["0.weight"][0] < 8


@pytest.mark.slow
def test_convnext_v2_is_cut_to_a_quarter() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnextv2_atto", num_classes=10).eval()
    graph = ChannelGraph(model, torch.randn(2, 3, 32, 32))
    halved = {group.name: group.round_count(group.channels / 2) for group in graph.groups}
    assert graph.cost(halved).flops < 0.28 * graph.cost().flops
