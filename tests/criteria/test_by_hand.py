"""Scores that can be checked by hand or by doing what they stand for."""

import pytest
import torch
import torch.nn.functional as F
from structure.networks import Net, conv
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import Calibration, calibrate
from amc_env.criteria import channel_scores, make_criterion
from amc_env.criteria.criterion import produced_by, read_by
from amc_env.criteria.ranking import ranking
from amc_env.repair.plan import Reconstruction, repaired_layers
from amc_env.structure import LayerUse, Member


def chain() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = Net(lambda n, x: n.b(n.a(x).relu()), 4, a=conv(8, 3), b=conv(3, 4)).eval()
    with torch.no_grad():
        model.a.weight.zero_()
        model.a.weight[:, 0, 1, 1] = torch.tensor([3.0, -4.0, 0.0])
        model.a.weight[0, 1, 0, 0] = 4.0
        model.b.weight.zero_()
        model.b.weight[0, :, 0, 0] = torch.tensor([1.0, -2.0, 5.0])
    return model, ChannelGraph(model, torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("l1", {}, [7.0, 4.0, 0.0]),
        ("l2", {}, [5.0, 4.0, 0.0]),
        ("l2", {"axis": "in"}, [1.0, 2.0, 5.0]),
        ("l1", {"axis": "in"}, [1.0, 2.0, 5.0]),
    ],
)
def test_magnitudes(name: str, options: dict[str, str], expected: list[float]) -> None:
    model, graph = chain()
    scores = channel_scores(
        make_criterion(name, options), graph.group("a"), Calibration(model=model)
    )
    assert scores.tolist() == pytest.approx(expected)


def test_the_scale_of_the_norm_is_its_absolute_weight() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
    graph = ChannelGraph(model.eval(), torch.randn(2, 3, 6, 6))
    scores = channel_scores(make_criterion("bn_scale"), graph.groups[0], Calibration(model=model))
    assert scores.tolist() == [0.5, 2.0, 1.0]


def test_taylor_is_the_change_of_the_loss_to_first_order() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    graph = ChannelGraph(model, x)
    calibration = calibrate(model, x.split(4), labels=labels)
    scores = channel_scores(make_criterion("taylor"), graph.group("0"), calibration)
    step = 1e-2
    with torch.no_grad():
        maps = model[1](model[0](x)).double()
        rest = nn.Sequential(*model[2:]).double()
        for channel in range(5):
            less = maps.clone()
            less[:, channel] *= 1 - step
            changes = [F.cross_entropy(rest(m), labels, reduction="none") for m in (less, maps)]
            expected = ((changes[0] - changes[1]) / step).abs().mean()
            assert scores[channel].item() == pytest.approx(float(expected), rel=2e-2, abs=1e-4)


def test_reconstruction_eliminates_what_costs_least_again_and_again() -> None:
    torch.manual_seed(0)
    model = Net(lambda n, x: n.b(n.a(x).relu()), 4, a=conv(8, 6), b=conv(6, 4)).eval()
    x = torch.randn(20, 3, 6, 6)
    graph = ChannelGraph(model, x[:2])
    group = graph.group("a")
    calibration = calibrate(model, [x], layers=repaired_layers(graph))
    scores = channel_scores(make_criterion("reconstruction"), group, calibration)

    def error(kept: list[int]) -> float:
        order = torch.tensor(kept + [c for c in range(6) if c not in kept])
        plan = Reconstruction(graph, calibration, {"a": order}, ridge=1e-4)
        return float(plan.errors("a")[len(kept) - 1])

    left = list(range(6))
    for _ in range(4):
        costs = {c: error([k for k in left if k != c]) for c in left}
        gone = min(costs, key=costs.__getitem__)
        assert int(ranking(scores)[len(left) - 1]) == gone
        # The ridge is part of what the criterion counts.
        assert scores[gone].item() == pytest.approx(costs[gone] ** 2, rel=0.05, abs=1e-5)
        left.remove(gone)


@pytest.mark.parametrize("others", [0, 7])
def test_reconstruction_counts_the_error_of_all_that_has_gone_in_wide_layers(others: int) -> None:
    torch.manual_seed(0)
    model = Net(
        lambda n, x: n.b(torch.cat([x[:, :others], n.a(x).relu()], 1)),
        5,
        a=conv(8, 40),
        b=conv(40 + others, 5),
    ).eval()
    x = torch.randn(30, 3, 6, 6)
    graph = ChannelGraph(model, x[:2])
    calibration = calibrate(model, [x], layers=repaired_layers(graph))
    scores = channel_scores(make_criterion("reconstruction"), graph.group("a"), calibration)

    (gram,) = calibration.grams["b"]
    weight = model.b.weight.detach().double().flatten(1).T
    ridged = gram + 1e-4 * gram.diagonal().mean() * torch.eye(len(gram))
    order = ranking(scores)
    for kept in (39, 30, 12, 7, 1):
        # What else the layer reads comes first, and stays.
        channels = torch.cat([torch.arange(others), order + others])
        columns = (channels[:, None] * 9 + torch.arange(9)).flatten()
        stays, goes = columns.tensor_split([9 * (others + kept)])
        across = ridged[stays][:, goes]
        rest = ridged[goes][:, goes] - across.T @ torch.linalg.solve(
            ridged[stays][:, stays], across
        )
        lost = torch.trace(weight[goes].T @ rest @ weight[goes])
        expected = lost / torch.trace(weight.T @ gram @ weight)
        assert scores[order[kept]].item() == pytest.approx(expected.item(), rel=1e-7)


def test_maps_of_a_single_pixel_have_no_aura() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(4, 12)
    graph = ChannelGraph(model, x)
    calibration = calibrate(model, [x], labels=torch.arange(4) % 2)
    with pytest.raises(
        ValueError, match=r"'mi_aura' cannot score group '1'.*single pixel.*class_mi"
    ):
        channel_scores(make_criterion("mi_aura"), graph.groups[0], calibration)
    assert len(channel_scores(make_criterion("class_mi"), graph.groups[0], calibration)) == 5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 3),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Linear(6, 4),
    ],
    ids=repr,
)
def test_weights_are_sorted_by_what_they_make_and_read(layer: nn.Module) -> None:
    use = LayerUse(
        name="",
        kind="",
        weight="weight",
        tensors=("weight",),
        shape=tuple(layer.weight.shape),
        output_dim=int(getattr(layer, "transposed", False)),
        groups=getattr(layer, "groups", 1),
        uses=1,
    )
    member = Member(module="", kind="", positions=torch.arange(4)[:, None], layer=use)
    x: Tensor = torch.randn(1, 6, 5, 5) if not isinstance(layer, nn.Linear) else torch.randn(1, 6)
    made, read = produced_by(layer, member), read_by(layer, member)
    assert len(made) == 4
    assert len(read) == 6
    assert made.numel() == read.numel() == layer.weight.numel()
    # An output depends on its own slice alone, and an input is read by its own slice alone.
    for kept, slices, axis in ((1, made, 0), (2, read, 1)):
        total = slices[kept].square().sum()
        gradient = torch.autograd.grad(_reach(layer, x, kept, axis), [layer.weight])[0]
        assert layer.weight[gradient != 0].square().sum().item() == pytest.approx(total.item())


def _reach(layer: nn.Module, x: Tensor, index: int, axis: int) -> Tensor:
    """A number that depends on all weights of one output, or of one input."""
    if axis == 1:
        x = torch.where((torch.arange(6) == index).view(1, 6, *[1] * (x.dim() - 2)), x, 0.0)
        return layer(x).square().sum()
    return layer(x)[:, index].square().sum()
