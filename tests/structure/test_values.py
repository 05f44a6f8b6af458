"""Networks that compute with the number of their channels are frozen, or cut right."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import masked
from structure.networks import NETWORKS, Net, build, conv
from torch import Tensor, nn

from amc_env import ChannelGraph

REASON = "the network computes with the number or the places of these channels"


def half_through_a_relu(net: nn.Module, x: Tensor) -> Tensor:
    x = net.mid(x)
    half = x.shape[1] // 2
    return net.out(torch.cat([x[:, :half].relu(), x[:, half:]], 1))


def divided_by_the_root_of_the_width(net: nn.Module, x: Tensor) -> Tensor:
    x = net.mid(x)
    return net.out(x / x.shape[1] ** 0.5)


def temporal_shift(net: nn.Module, x: Tensor) -> Tensor:
    """A quarter of the channels comes from the next frame, a quarter from the last one."""
    x = net.mid(x)
    clips = x.view(-1, 2, *x.shape[1:])
    quarter = x.shape[1] // 4
    ahead, behind, rest = torch.split(clips, [quarter, quarter, x.shape[1] - 2 * quarter], dim=2)
    ahead = torch.cat([ahead[:, 1:], torch.zeros_like(ahead[:, :1])], 1)
    behind = torch.cat([torch.zeros_like(behind[:, :1]), behind[:, :-1]], 1)
    return net.out(torch.cat([ahead, behind, rest], 2).view(x.shape))


def shift_written_by_index(net: nn.Module, x: Tensor) -> Tensor:
    """The temporal shift as its authors wrote it."""
    x = net.mid(x)
    clips = x.view(-1, 2, *x.shape[1:])
    quarter = x.shape[1] // 4
    out = torch.zeros_like(clips)
    out[:, :-1, :quarter] = clips[:, 1:, :quarter]
    out[:, 1:, quarter : 2 * quarter] = clips[:, :-1, quarter : 2 * quarter]
    out[:, :, 2 * quarter :] = clips[:, :, 2 * quarter :]
    return net.out(out.view(x.shape))


COUNTING = {
    f.__name__: f
    for f in (
        half_through_a_relu,
        divided_by_the_root_of_the_width,
        temporal_shift,
        shift_written_by_index,
    )
}


def network(middle: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(middle, 6, mid=conv(8, 8), out=conv(8, 6)).eval()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", COUNTING)
def test_code_that_counts_channels_is_never_cut_wrongly(name: str, constant: bool) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = ChannelGraph(network(COUNTING[name]), torch.zeros_like(x) if constant else x)
    assert [group.name for group in graph.groups] == ["stem", "out"]
    for half in (slice(None, 4), slice(4, None)):
        kept = {g.name: torch.arange(g.channels)[half] for g in graph.groups}
        with torch.no_grad():
            expected, got = masked(graph, kept)(x), graph.compact(kept)(x)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in COUNTING if name != "shift_written_by_index"])
def test_the_reason_names_the_number_of_channels(name: str) -> None:
    graph = ChannelGraph(network(COUNTING[name]), torch.zeros(2, 3, 8, 8))
    reason = {f.name: f.reason for f in graph.frozen}["mid"]
    assert reason.startswith(REASON)
    assert "(at out)" in reason


def test_a_branch_that_starts_at_zero_hides_nothing() -> None:
    model = Net(
        lambda n, x: x + n.bn(n.back(half_through_a_relu(n, x))),
        8,
        mid=conv(8, 8),
        out=conv(8, 6),
        back=conv(6, 8),
        bn=nn.BatchNorm2d(8),
    )
    nn.init.zeros_(model.bn.weight)
    nn.init.zeros_(model.out.weight)
    graph = ChannelGraph(model.eval(), torch.zeros(2, 3, 8, 8))
    assert "mid" not in {group.name for group in graph.groups}
    assert not model.out.weight.any()


def test_a_network_that_is_random_in_evaluation_is_not_judged_by_values() -> None:
    model = network(lambda n, x: n.out(n.mid(x) * torch.rand(x.shape[2:])))
    graph = ChannelGraph(model, torch.randn(2, 3, 8, 8))
    assert [group.name for group in graph.groups] == ["stem", "mid", "out"]


@pytest.mark.parametrize("size", [8, 128])
def test_the_random_state_is_left_as_it_was(size: int) -> None:
    model = network(lambda n, x: n.out(F.dropout(n.mid(x), training=True)))
    before = torch.get_rng_state()
    ChannelGraph(model, torch.zeros(2, 3, size, size))
    assert torch.equal(torch.get_rng_state(), before)


def test_values_that_overflow_are_no_wrong_cut() -> None:
    model = network(lambda n, x: n.out(n.mid(x) / 0.0))
    graph = ChannelGraph(model, torch.randn(2, 3, 8, 8))
    assert "stem" in {group.name for group in graph.groups}


def test_a_group_that_fails_is_found_among_others_that_pass() -> None:
    def middle(net: nn.Module, x: Tensor) -> Tensor:
        x = net.second(F.relu(net.first(x)))
        return net.last(half_through_a_relu(net, x))

    parts = {"first": conv(8, 8), "second": conv(8, 8), "mid": conv(8, 8), "out": conv(8, 8)}
    model = Net(middle, 6, last=conv(8, 6), **parts).eval()
    graph = ChannelGraph(model, torch.randn(2, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["stem", "first", "second", "out", "last"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_compared_as_well(dtype: torch.dtype) -> None:
    model = network(half_through_a_relu).to(dtype)
    graph = ChannelGraph(model, torch.randn(2, 3, 8, 8).to(dtype))
    assert [group.name for group in graph.groups] == ["stem", "out"]
    assert model.stem.weight.dtype == dtype


def test_a_large_input_takes_the_way_without_values_to_the_same_groups() -> None:
    model, _ = build(NETWORKS, "residual")
    small, large = (ChannelGraph(model, torch.zeros(2, 3, size, size)) for size in (8, 128))
    assert [g.name for g in small.groups] == [g.name for g in large.groups]


def on_large_images_only(net: nn.Module, x: Tensor) -> Tensor:
    return half_through_a_relu(net, x) if x.shape[-1] > 100 else net.out(net.mid(x))


@pytest.mark.parametrize("middle", [half_through_a_relu, on_large_images_only])
def test_cropped_images_hide_no_wrong_cut(middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
    graph = ChannelGraph(network(middle), torch.randn(1, 3, 128, 128))
    assert [group.name for group in graph.groups] == ["stem", "out"]


def clamped(net: nn.Module, x: Tensor) -> Tensor:
    net.out.weight.data.clamp_(-0.01, 0.01)
    return net.out(net.mid(x))


def test_a_forward_that_writes_into_its_parameters_leaves_the_model_as_it_was() -> None:
    model = network(clamped)
    before = model.out.weight.detach().clone()
    ChannelGraph(model, torch.randn(2, 3, 8, 8))
    assert torch.equal(model.out.weight, before)
