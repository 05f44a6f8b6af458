import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import Calibration, calibrate, layer_rows
from amc_env.reconstruction import Reconstruction, repaired_layers
from amc_env.sequential import repair_sequentially_

# All but those without a layer to repair behind the first group.
NAMES = sorted(NETWORKS)
FEW = settings(max_examples=5, deadline=None, derandomize=True)


def prepared(name: str, *, samples: int = 24) -> tuple[ChannelGraph, Calibration, Tensor]:
    model, example = build(NETWORKS, name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *example.shape[1:], generator=generator).double()
    model = model.double()
    graph = ChannelGraph(model, example.double())
    return graph, calibrate(model, [x], layers=repaired_layers(graph)), x


def random_orders(graph: ChannelGraph, seed: int) -> tuple[dict[str, Tensor], dict[str, int]]:
    generator = torch.Generator().manual_seed(seed)
    orders = {g.name: torch.randperm(g.channels, generator=generator) for g in graph.groups}
    counts = {
        g.name: int(torch.randint(1, g.channels + 1, (), generator=generator)) for g in graph.groups
    }
    return orders, counts


def inputs_of(model: nn.Module, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    layer = dict(model.named_modules())[name]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    # A layer that is used twice has two sets of rows.
    return torch.cat(seen)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_weights_equal_linear_regression_on_the_same_rows(name: str, seed: int) -> None:
    graph, calibration, x = prepared(name)
    orders, counts = random_orders(graph, seed)
    plan = Reconstruction(graph, calibration, orders, ridge=0.0)
    modules = dict(graph.model.named_modules())
    kept = plan.kept(counts)
    for layer_name, weight in plan.weights(counts).items():
        layer = modules[layer_name]
        rows = layer_rows(layer, inputs_of(graph.model, layer_name, x))
        inputs, outputs = stays(graph, layer_name, kept, layer)
        for part, (part_rows, part_weight) in enumerate(
            zip(rows, weight.chunk(len(rows)), strict=True)
        ):
            original = layer.weight.detach().flatten(1).chunk(len(rows))[part]
            width = layer.weight.shape[1]
            local = inputs[part * width : (part + 1) * width].nonzero().flatten()
            kernel = part_rows.shape[1] // width
            columns = (local[:, None] * kernel + torch.arange(kernel)).flatten()
            if len(part_rows) < 2 * len(columns):
                continue  # too few rows for a single best solution
            target = part_rows @ original.mT[:, outputs.chunk(len(rows))[part]]
            oracle = LinearRegression(fit_intercept=False)
            oracle.fit(part_rows[:, columns].numpy(), target.numpy())
            fitted = part_rows[:, columns] @ part_weight.mT
            best = torch.from_numpy(oracle.predict(part_rows[:, columns].numpy()))
            assert (fitted - best).norm() <= 1e-6 * target.norm()


def stays(
    graph: ChannelGraph, name: str, kept: dict[str, Tensor], layer: nn.Module
) -> tuple[Tensor, Tensor]:
    """Masks over a layer's inputs and outputs."""
    parts = getattr(layer, "groups", 1)
    masks = [
        torch.ones(layer.weight.shape[1] * parts, dtype=torch.bool),
        torch.ones(layer.weight.shape[0], dtype=torch.bool),
    ]
    for group in graph.groups:
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[kept[group.name]] = False
        for mask, members in zip(masks, (group.consumers, group.producers), strict=True):
            for member in members:
                if member.module == name:
                    mask[member.positions[gone].flatten()] = False
    return masks[0], masks[1]


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_channels_changes_no_weight(name: str) -> None:
    graph, calibration, x = prepared(name)
    plan = Reconstruction(graph, calibration, {})
    counts = {g.name: g.channels for g in graph.groups}
    compact = graph.compact(plan.kept(counts))
    plan.apply_(compact, counts)
    with torch.no_grad():
        assert torch.equal(compact(x), graph.model(x))


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_errors_fall_to_zero_as_channels_stay(name: str, seed: int) -> None:
    graph, calibration, _ = prepared(name)
    orders, _ = random_orders(graph, seed)
    # A ridge counts in the curve, and lets it rise by as much.
    plan = Reconstruction(graph, calibration, orders, ridge=1e-12)
    for group in graph.groups:
        if any(c.module in calibration.grams for c in group.consumers):
            errors = plan.errors(group.name)
            assert errors.shape == (group.channels,)
            assert (errors.diff() <= 1e-6).all()
            assert errors[-1] <= 1e-5


@pytest.mark.parametrize("name", ["residual", "dense", "flatten", "grouped", "one dimension"])
def test_repair_brings_the_network_nearer_to_the_original(name: str) -> None:
    graph, calibration, x = prepared(name, samples=64)
    orders, _ = random_orders(graph, 0)
    plan = Reconstruction(graph, calibration, orders)
    counts = {g.name: max(1, g.channels * 3 // 4) for g in graph.groups}
    kept = plan.kept(counts)
    compact = graph.compact(kept)
    distances = []
    for repair in (
        lambda: None,
        lambda: plan.apply_(compact, counts),
        lambda: repair_sequentially_(compact, graph, kept, x.split(20)),
    ):
        repair()
        with torch.no_grad():
            distances.append((compact(x) - graph.model(x)).norm().item())
    plain, repaired, sequential = distances
    assert repaired < plain
    assert sequential < repaired


def test_sequential_repair_leaves_both_networks_without_hooks_in_their_modes() -> None:
    graph, _, x = prepared("residual")
    kept = {"a": torch.arange(3)}
    compact = graph.compact(kept).train()
    repair_sequentially_(compact, graph, kept, [x])
    assert compact.training
    assert not graph.model.training
    for model in (compact, graph.model):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bad_requests_are_refused() -> None:
    graph, calibration, x = prepared("residual")
    with pytest.raises(ValueError, match="the order of group 'a' is no permutation of its 6"):
        Reconstruction(graph, calibration, {"a": torch.zeros(6, dtype=torch.long)})
    with pytest.raises(ValueError, match=r"ridge is -1\.0"):
        Reconstruction(graph, calibration, {}, ridge=-1.0)
    few = calibrate(graph.model, [x], layers=["a"])
    with pytest.raises(ValueError, match="layer 'head' was not calibrated"):
        Reconstruction(graph, few, {})
    with pytest.raises(ValueError, match="there are no calibration samples"):
        repair_sequentially_(graph.compact({}), graph, {}, [])
    plan = Reconstruction(graph, calibration, {})
    with pytest.raises(ValueError, match="was cut to another size"):
        plan.apply_(graph.compact({"a": [0]}), {"a": 2})
