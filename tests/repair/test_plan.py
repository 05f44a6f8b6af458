import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import Calibration, calibrate
from amc_env.calibration.hooks import listening
from amc_env.calibration.rows import layer_rows
from amc_env.repair.plan import (
    DEFAULT_RIDGE,
    Reconstruction,
    repaired_layers,
)
from amc_env.repair.sequential import repair_sequentially_

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
            fitted = part_rows[:, columns] @ part_weight.flatten(1).mT
            best = torch.from_numpy(oracle.predict(part_rows[:, columns].numpy()))
            assert (fitted - best).norm() <= 1e-6 * target.norm()


def stays(
    graph: ChannelGraph,
    name: str,
    kept: dict[str, Tensor],
    layer: nn.Module,
    *,
    with_followers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Masks over a layer's inputs and outputs; followers, as depthwise layers, lose outputs too."""
    parts = getattr(layer, "groups", 1)
    masks = [
        torch.ones(layer.weight.shape[1] * parts, dtype=torch.bool),
        torch.ones(layer.weight.shape[0], dtype=torch.bool),
    ]
    for group in graph.groups:
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[kept[group.name]] = False
        makers = group.producers + (group.followers if with_followers else ())
        for mask, members in zip(masks, (group.consumers, makers), strict=True):
            for member in members:
                if member.module == name:
                    mask[member.positions[gone].flatten()] = False
    return masks[0], masks[1]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=st.integers(0, 2**32 - 1), ridge=st.sampled_from([1e-4, 1e-2]))
def test_any_channels_are_solved_for_as_if_they_came_first(
    name: str, seed: int, ridge: float
) -> None:
    graph, calibration, _ = prepared(name)
    orders, counts = random_orders(graph, seed)
    kept = {group: order[: counts[group]] for group, order in orders.items()}
    others, _ = random_orders(graph, seed + 1)
    expected = Reconstruction(graph, calibration, orders, ridge=ridge).weights(counts)
    plan = Reconstruction(graph, calibration, others, ridge=ridge)
    got = plan.weights(kept)
    assert got.keys() == expected.keys()
    for layer, weight in got.items():
        assert torch.allclose(weight, expected[layer], rtol=1e-8, atol=1e-8)
    compact = graph.compact(plan.kept(kept))
    plan.apply_(compact, kept)
    modules = dict(compact.named_modules())
    assert all(torch.allclose(modules[n].weight, w, atol=1e-6) for n, w in got.items())


def test_channels_and_numbers_may_be_asked_for_together() -> None:
    graph, calibration, _ = prepared("residual")
    first, second = graph.groups[0], graph.groups[1]
    plan = Reconstruction(graph, calibration, {})
    kept = plan.kept({first.name: [first.channels - 1, 0], second.name: 2})
    assert {n: k.tolist() for n, k in kept.items()} == {
        first.name: [0, first.channels - 1],
        second.name: [0, 1],
    }
    with pytest.raises(ValueError, match=f"group {first.name!r} has no channel 99"):
        plan.weights({first.name: [0, 99]})


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
@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ridge=st.sampled_from([1e-4, 1e-2]))
def test_errors_are_the_residuals_of_the_rows(name: str, seed: int, ridge: float) -> None:
    graph, calibration, x = prepared(name, samples=6)
    orders, _ = random_orders(graph, seed)
    plan = Reconstruction(graph, calibration, orders, ridge=ridge)
    modules = dict(graph.model.named_modules())
    for group in graph.groups:
        readers = {c.module for c in group.consumers if c.module in calibration.grams}
        if readers & {p.module for p in group.producers}:
            continue  # its outputs go with its inputs; the curve is about all outputs
        if not readers:
            with pytest.raises(ValueError, match=f"no layer that reads group {group.name!r}"):
                plan.errors(group.name)
            continue
        errors = plan.errors(group.name)
        assert errors.shape == (group.channels,)
        assert errors[-1] < 1e-7
        count = group.counts[-2] if len(group.counts) > 1 else group.channels
        lost = energy = 0.0
        weights = plan.weights({group.name: count})
        for reader in readers:
            rows = layer_rows(modules[reader], inputs_of(graph.model, reader, x))
            lost += residual(graph, plan.kept({group.name: count}), reader, (rows, weights))
            original = modules[reader].weight.detach().flatten(1).chunk(len(rows))
            energy += float(
                sum((r @ w.mT).square().sum() for r, w in zip(rows, original, strict=True))
            )
        assert errors[count - 1].item() == pytest.approx((lost / energy) ** 0.5, rel=1e-5, abs=1e-6)


def residual(
    graph: ChannelGraph,
    kept: dict[str, Tensor],
    name: str,
    solved: tuple[Tensor, dict[str, Tensor]],
) -> float:
    """What the new weights of a layer miss of all its original outputs, on the rows."""
    rows, weights = solved
    layer = dict(graph.model.named_modules())[name]
    everything = {g.name: torch.arange(g.channels) for g in graph.groups}
    inputs, _ = stays(graph, name, {**everything, **kept}, layer)
    _, outputs = stays(graph, name, {**everything, **kept}, layer)
    width, lost = layer.weight.shape[1], 0.0
    if name not in weights:
        return 0.0
    for part, weight in enumerate(weights[name].flatten(1).chunk(len(rows))):
        kernel = rows.shape[2] // width
        local = inputs[part * width : (part + 1) * width].repeat_interleave(kernel)
        chosen = outputs.chunk(len(rows))[part]
        target = rows[part] @ layer.weight.detach().flatten(1).chunk(len(rows))[part].mT
        lost += float((rows[part][:, local] @ weight.mT - target[:, chosen]).square().sum())
    return lost


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


@pytest.mark.parametrize("name", NAMES)
def test_sequential_repair_solves_every_layer_on_its_own_inputs(name: str) -> None:
    graph, _, x = prepared(name)
    orders, counts = random_orders(graph, 1)
    kept = {group: orders[group][:count] for group, count in counts.items()}
    compact = graph.compact(kept)
    before = dict(graph.compact(kept).named_modules())
    repair_sequentially_(compact, graph, kept, [x[:9], x[9:]])
    originals = dict(graph.model.named_modules())
    for layer_name, layer in compact.named_modules():
        weight = getattr(layer, "weight", None)
        if weight is None or torch.equal(weight, before[layer_name].weight):
            continue
        assert len(inputs_of(compact, layer_name, x)) == len(x)  # it is used once
        _, outputs = stays(graph, layer_name, kept, originals[layer_name], with_followers=True)
        inputs = inputs_of(graph.model, layer_name, x)
        wanted = output_rows(originals[layer_name], inputs)[:, outputs]
        rows = layer_rows(layer, inputs_of(compact, layer_name, x))
        anchors = before[layer_name].weight.detach().flatten(1).chunk(len(rows))
        solved = weight.detach().flatten(1).chunk(len(rows))
        added = constants(compact, before, layer_name, x)
        shifts = torch.zeros(len(weight)) if added is None else added
        for part, anchor, got, y, shift in zip(
            rows,
            anchors,
            solved,
            wanted.chunk(len(rows), dim=1),
            shifts.chunk(len(rows)),
            strict=True,
        ):
            ridge = DEFAULT_RIDGE * part.square().sum(0).mean() * torch.eye(part.shape[1]).double()
            columns, aim = part, y
            if added is not None:
                columns, aim = part - part.mean(0), y - y.mean(0)
                assert torch.allclose(shift, (y - part @ got.mT).mean(0), rtol=1e-6, atol=1e-8)
            best = torch.linalg.solve(
                columns.mT @ columns + ridge, columns.mT @ aim + ridge @ anchor.mT
            )
            assert torch.allclose(got.mT, best, rtol=1e-6, atol=1e-8)


def constants(
    compact: nn.Module, before: dict[str, nn.Module], name: str, x: Tensor
) -> Tensor | None:
    """What a repair has added to a layer's outputs; None where it could not add anything."""
    layer = compact.get_submodule(name)
    if layer.bias is not None:
        return layer.bias.detach() - before[name].bias.detach()
    outputs, readers = [], []
    norms = {n: m for n, m in compact.named_modules() if isinstance(m, nn.BatchNorm2d)}
    with (
        listening({name: layer}, after=lambda _n, _l, output: outputs.append(output)),
        listening(
            norms, before=lambda n, _l, read: readers.extend([n] * any(read is y for y in outputs))
        ),
        torch.no_grad(),
    ):
        compact(x)
    return before[readers[0]].running_mean - norms[readers[0]].running_mean if readers else None


def output_rows(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer gives, less its bias: (rows, outputs)."""
    with torch.no_grad():
        out: Tensor = layer(x)
    rows = out if isinstance(layer, nn.Linear) else out.flatten(2).mT
    rows = rows.reshape(-1, rows.shape[-1])
    return rows if layer.bias is None else rows - layer.bias.detach()


def test_sequential_repair_leaves_both_networks_without_hooks_in_their_modes() -> None:
    graph, _, x = prepared("residual")
    kept = {"a": torch.arange(3)}
    compact = graph.compact(kept).train()
    repair_sequentially_(compact, graph, kept, [x])
    assert compact.training
    assert not graph.model.training
    for model in (compact, graph.model):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["residual", "dense", "flatten", "grouped", "one dimension"])
def test_new_weights_have_the_shapes_of_the_compact_network(name: str) -> None:
    graph, calibration, _ = prepared(name)
    plan = Reconstruction(graph, calibration, {})
    counts = {g.name: g.counts[len(g.counts) // 2] for g in graph.groups}
    modules = dict(graph.compact(plan.kept(counts)).named_modules())
    for layer, weight in plan.weights(counts).items():
        assert weight.shape == modules[layer].weight.shape


def test_a_network_cut_to_other_numbers_is_left_as_it_is() -> None:
    graph, calibration, _ = prepared("residual")
    plan = Reconstruction(graph, calibration, {})
    compact = graph.compact({"a": [0, 1]})
    before = {name: value.clone() for name, value in compact.state_dict().items()}
    with pytest.raises(ValueError, match="was cut to another size"):
        plan.apply_(compact, {"a": 2, graph.groups[0].name: 3})
    assert all(torch.equal(v, before[n]) for n, v in compact.state_dict().items())


@pytest.mark.parametrize("count", [0, -1, 7])
def test_numbers_that_a_group_cannot_keep_are_refused(count: int) -> None:
    graph, calibration, _ = prepared("residual")
    plan = Reconstruction(graph, calibration, {})
    for ask in (plan.kept, plan.weights):
        with pytest.raises(ValueError, match=f"group 'a' cannot keep {count} channels"):
            ask({"a": count})
        with pytest.raises(ValueError, match="there is no group 'b2'"):
            ask({"b2": 1})
    with pytest.raises(ValueError, match="there is no group 'b2'"):
        plan.errors("b2")
    with pytest.raises(ValueError, match="there is no group 'b2'"):
        Reconstruction(graph, calibration, {"b2": torch.arange(2)})


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
