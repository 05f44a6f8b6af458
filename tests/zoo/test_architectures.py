"""Every architecture: compact equals masked, costs are exact, it trains and it exports."""

import copy
import io
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import counted_flops, masked
from torch import Tensor, nn
from zoo.architectures import ARCHITECTURES, TIMM, TORCHVISION, build
from zoo.published_resnet import PublishedResNet

from amc_env import ChannelGraph
from amc_env.models import load_checkpoint_

EVERY = [
    pytest.param(name, marks=() if architecture.quick else pytest.mark.slow, id=name)
    for name, architecture in ARCHITECTURES.items()
]
# The mean share of channels kept; 0 keeps a single channel in every group.
SHARES = (0.8, 0.5, 0.2, 0.0)


@cache
def analysed(name: str) -> tuple[ChannelGraph, Tensor]:
    model, x = build(ARCHITECTURES[name])
    return ChannelGraph(model, x), x


def random_kept(graph: ChannelGraph, share: float, seed: int) -> dict[str, Tensor]:
    """Random channels, about ``share`` of each group, at least one."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in graph.groups:
        wanted = share * (0.5 + torch.rand((), generator=generator).item()) * group.channels
        count = min(max(round(wanted), 1), group.channels)
        kept[group.name] = torch.randperm(group.channels, generator=generator)[:count]
    return kept


def first_tensor(out: object) -> Tensor:
    """The logits: the only tensor, or the first of several."""
    return out if isinstance(out, Tensor) else next(iter(out))


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return first_tensor(model(x))


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_compact_equals_masked_at_exact_cost(name: str, seed: int) -> None:
    graph, x = analysed(name)
    for share in SHARES:
        kept = random_kept(graph, share, seed)
        compact = graph.compact(kept)
        got, expected = logits(compact, x), logits(masked(graph, kept), x)
        assert got.shape == expected.shape
        assert got.isfinite().all()
        if not any(group.has_channel_norm for group in graph.groups):
            assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
        cost = graph.cost({group: len(indices) for group, indices in kept.items()})
        assert cost.flops == counted_flops(compact, (x,))
        assert cost.params == sum(p.numel() for p in compact.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_keeping_all_changes_nothing(name: str) -> None:
    graph, x = analysed(name)
    whole = graph.compact({group.name: range(group.channels) for group in graph.groups})
    assert torch.equal(logits(whole, x), logits(graph.model, x))


@pytest.mark.parametrize("name", EVERY)
def test_a_compact_network_trains(name: str) -> None:
    graph, x = analysed(name)
    compact = graph.compact(random_kept(graph, 0.5, 0)).train()
    before = {key: p.detach().clone() for key, p in compact.named_parameters()}
    optimizer = torch.optim.SGD(compact.parameters(), lr=1e-3)
    # A batch norm needs more than one value a channel, also where one pixel is left.
    out = compact(torch.cat([x, x.flip(0) + 1]))
    loss = sum(o.square().mean() for o in (out if isinstance(out, tuple) else (out,)))
    loss.backward()
    nn.utils.clip_grad_norm_(compact.parameters(), 1.0)
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(p, before[key]) for key, p in compact.named_parameters())


@pytest.mark.parametrize("name", EVERY)
def test_a_compact_network_is_saved_and_restored(name: str) -> None:
    graph, x = analysed(name)
    kept = random_kept(graph, 0.5, 1)
    compact = graph.compact(kept)
    expected = logits(compact, x)
    file = io.BytesIO()
    torch.save(compact.state_dict(), file)
    file.seek(0)
    other = graph.compact(kept)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(logits(other, x), expected)
    assert torch.equal(logits(copy.deepcopy(compact), x), expected)
    if name != "published resnet56":  # its lambda cannot be pickled
        assert torch.equal(logits(pickle.loads(pickle.dumps(compact)), x), expected)


ONNX_QUICK = {"digits_cnn", "lenet5", "unet"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ONNX_QUICK else pytest.mark.slow, id=n)
        for n in ARCHITECTURES
    ],
)
def test_a_compact_network_exports_to_onnx(name: str, tmp_path: Path) -> None:
    graph, x = analysed(name)
    compact = graph.compact(random_kept(graph, 0.5, 2))
    path = tmp_path / "compact.onnx"
    torch.onnx.export(compact, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (first, *_) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = logits(compact, x).numpy()
    assert np.abs(first - expected).max() <= 1e-3 * np.abs(expected).max()


HIDDEN = {
    "vit_b_16": [f"encoder.layers.encoder_layer_{n}.mlp.0" for n in range(12)],
    "swin_t": [
        f"features.{stage}.{block}.mlp.0"
        for stage, depth in ((1, 2), (3, 2), (5, 6), (7, 2))
        for block in range(depth)
    ],
    "deit_tiny_patch16_224": [f"blocks.{n}.mlp.fc1" for n in range(12)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HIDDEN)
def test_transformers_are_cut_in_their_hidden_dimensions(name: str) -> None:
    graph, _ = analysed(name)
    assert set(HIDDEN[name]) <= {group.name for group in graph.groups}
    attention = [g.name for g in graph.groups if "qkv" in g.name or "attn" in g.name]
    assert attention == []
    assert any("attn" in f.name or "attention" in f.reason for f in graph.frozen)


@pytest.mark.slow
def test_shuffles_freeze_what_they_mix() -> None:
    graph, _ = analysed("shufflenet_v2_x1_0")
    inner = {group.name for group in graph.groups if group.name.endswith("branch2.0")}
    assert len(inner) == 16
    mixed = [f for f in graph.frozen if f.name.endswith("branch2.5")]
    assert len(mixed) == 16
    assert all("a cut network fails" in f.reason for f in mixed)


@pytest.mark.slow
def test_auxiliary_heads_are_cut_with_their_trunk() -> None:
    model, _ = build(ARCHITECTURES["googlenet"])
    x = torch.randn(2, 3, 224, 224)
    graph = ChannelGraph(model, x)
    compact = graph.compact(random_kept(graph, 0.5, 0)).train()
    out = compact(x)
    sum(o.mean() for o in out).backward()
    assert len(out) == 3
    assert compact.aux1.conv.conv.in_channels < model.aux1.conv.conv.in_channels


@pytest.mark.parametrize("depth", [20, 56])
def test_published_weights_work_unmodified(depth: int, shared: Path) -> None:
    model = PublishedResNet(depth)
    load_checkpoint_(model, shared / "models" / f"cifar10_resnet{depth}.th")
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = ChannelGraph(model.eval(), x)
    kept = random_kept(graph, 0.5, 3)
    got, expected = logits(graph.compact(kept), x), logits(masked(graph, kept), x)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert {g.name: g.channels for g in graph.groups}["conv1"] == 16


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TORCHVISION) == 23
    assert len(TIMM) >= 10
    assert sum(a.quick for a in ARCHITECTURES.values()) >= 12
