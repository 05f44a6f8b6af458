import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import calibrate
from amc_env.calibration import rows as unfolding
from amc_env.calibration.rows import RowSampling, count_positions, draw_positions, layer_rows
from amc_env.repair.plan import repaired_layers, unrepaired_layers

LAYERS = {
    "plain": nn.Conv2d(6, 4, 3, padding=1),
    "strided": nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(0, 2)),
    "dilated": nn.Conv2d(6, 4, 3, dilation=2, bias=False),
    "grouped": nn.Conv2d(6, 4, 3, groups=2),
    "same": nn.Conv2d(6, 4, (3, 5), padding="same"),
    "valid": nn.Conv2d(6, 4, 2, padding="valid"),
    "uneven": nn.Conv2d(6, 6, (2, 3), stride=(1, 2), dilation=(3, 1), groups=3, padding=1),
    "reflecting": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weights_are_the_layers_output(name: str) -> None:
    layer, x = LAYERS[name], torch.randn(2, 6, 9, 8)
    rows = layer_rows(layer, x)
    weight = layer.weight.flatten(1).view(layer.groups, -1, rows.shape[2])
    out = layer(x)
    if layer.bias is not None:
        out = out - layer.bias.view(-1, 1, 1)
    got = torch.cat(list(rows @ weight.mT), dim=1)
    assert torch.allclose(got, out.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_any_convolution_and_of_some_positions(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: int,
    groups: int,
    seed: int,
) -> None:
    layer = nn.Conv2d(
        4, 8, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    ).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 7, 6, generator=generator, dtype=torch.float64)
    rows, out = layer_rows(layer, x), layer(x).flatten(2)
    weight = layer.weight.flatten(1).view(groups, -1, rows.shape[2])
    assert torch.allclose(torch.cat(list(rows @ weight.mT), dim=1), out.mT.flatten(0, 1))
    positions = draw_positions(count_positions(layer, x), 3, generator)
    if positions is not None:
        some = rows.unflatten(1, (3, -1))[:, :, positions].flatten(1, 2)
        assert torch.equal(layer_rows(layer, x, positions), some)


def test_rows_of_three_dimensions() -> None:
    layer = nn.Conv3d(4, 6, (1, 2, 3), stride=(2, 1, 1), padding=(0, 1, 1), groups=2, bias=False)
    x = torch.randn(2, 4, 5, 4, 6)
    rows = layer_rows(layer, x)
    weight = layer.weight.flatten(1).view(2, 3, -1)
    got = torch.cat(list(rows @ weight.mT), dim=1)
    assert torch.allclose(got, layer(x).flatten(2).mT.flatten(0, 1), atol=1e-5)


def test_rows_of_one_dimension_and_of_linear_layers() -> None:
    conv, x = nn.Conv1d(4, 3, 5, stride=2, padding=2, bias=False), torch.randn(2, 4, 11)
    got = layer_rows(conv, x)[0] @ conv.weight.flatten(1).mT
    assert torch.allclose(got, conv(x).mT.flatten(0, 1), atol=1e-5)
    linear, y = nn.Linear(4, 3, bias=False), torch.randn(2, 5, 4)
    assert torch.allclose(layer_rows(linear, y)[0] @ linear.weight.mT, linear(y).flatten(0, 1))


def test_batches_add_up_to_the_whole() -> None:
    model, _ = build(NETWORKS, "residual")
    x = torch.randn(12, 3, 8, 8)
    whole = calibrate(model, [x], layers=["a", "b"])
    parts = calibrate(model, x.split(5), layers=["a", "b"])
    assert whole.samples == parts.samples == 12
    for name in ("a", "b"):
        assert whole.grams[name].dtype == torch.float64
        assert torch.allclose(whole.grams[name], parts.grams[name], rtol=1e-6, atol=1e-8)


def test_a_gram_matrix_is_that_of_the_unfolded_inputs() -> None:
    model, x = build(NETWORKS, "residual")
    with torch.no_grad():
        inputs = F.relu(model.norm(model.stem(x)))
    rows = F.unfold(inputs, 3, padding=1).mT.flatten(0, 1).double()
    got = calibrate(model, [x], layers=["a"]).grams["a"]
    assert torch.allclose(got[0], rows.mT @ rows, rtol=1e-5, atol=1e-6)


def test_samples_unfolded_in_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(NETWORKS, "residual")
    x = torch.cat([x, x.flip(0), -x])
    whole = calibrate(model, [x], layers=["a", "head"])
    monkeypatch.setattr(unfolding, "_CHUNK", 1)
    pieces = calibrate(model, [x], layers=["a", "head"])
    for name in ("a", "head"):
        assert torch.allclose(whole.grams[name], pieces.grams[name], rtol=1e-10)


def test_the_same_seed_draws_the_same_positions() -> None:
    model, x = build(NETWORKS, "residual")
    grams = [
        calibrate(model, [x], layers=["a"], sampling=RowSampling(positions=7, seed=seed)).grams["a"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(grams[0], grams[1])
    assert not torch.equal(grams[0], grams[2])


def test_many_positions_are_all_positions() -> None:
    model, x = build(NETWORKS, "residual")
    some = calibrate(model, [x], layers=["a"], sampling=RowSampling(positions=64))
    assert torch.equal(some.grams["a"], calibrate(model, [x], layers=["a"]).grams["a"])


class Broken(nn.Module):
    """Gives NaN behind its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).log())


@pytest.mark.parametrize("fails", [False, True])
def test_mode_hooks_and_weights_are_left_as_they_were(fails: bool) -> None:
    model = Broken().train()
    model.head.eval()
    with torch.no_grad():
        model.stem.weight.fill_(1)
        model.stem.bias.zero_()
    if fails:
        with pytest.raises(ValueError, match="layer 'head' reads NaN or infinite values"):
            calibrate(model, [-torch.ones(1, 1, 2, 2)], layers=["head"])
    else:
        calibrate(model, [torch.ones(1, 1, 2, 2)], layers=["head"])
    assert model.training
    assert not model.head.training
    assert not any(m._forward_pre_hooks for m in model.modules())


class ByKeyword(nn.Module):
    """Passes its input by name, and may give its last layer something else."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 4, 1), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=self.stem(input=x))


def test_inputs_passed_by_name_are_heard() -> None:
    model = ByKeyword(nn.Conv2d(4, 2, 1))
    assert calibrate(model, [torch.ones(2, 1, 3, 3)], layers=["last"]).grams["last"].shape[1] == 4


def test_samples_that_the_model_cannot_read_are_refused() -> None:
    model, x = build(NETWORKS, "residual")
    with pytest.raises(ValueError, match=r"cannot run on calibration samples of shape \(2, 1, 8"):
        calibrate(model, [torch.ones(2, 1, 8, 8)], layers=["a"])
    with pytest.raises(ValueError, match="layer 'last' reads"):
        calibrate(ByKeyword(nn.Conv2d(5, 2, 1)), [torch.ones(2, 1, 3, 3)], layers=["last"])
    with pytest.raises(ValueError, match=r"has the shape \(0, 3, 8, 8\); give at least one sample"):
        calibrate(model, [x[:0]], layers=["a"])
    with pytest.raises(ValueError, match=r"is a list; give tensors of samples, without their lab"):
        calibrate(model, [[x, torch.zeros(2)]], layers=["a"])
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_bad_requests_are_refused() -> None:
    model, x = build(NETWORKS, "residual")
    with pytest.raises(ValueError, match="there are no calibration samples"):
        calibrate(model, [], layers=["a"])
    with pytest.raises(ValueError, match="'norm' is no convolution or linear layer"):
        calibrate(model, [x], layers=["norm"])
    with pytest.raises(ValueError, match="positions is 0"):
        RowSampling(positions=0)
    model.idle = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layer 'idle' did not run"):
        calibrate(model, [x], layers=["idle"])


def test_layers_to_calibrate_read_a_group_and_are_no_transposed_convolution() -> None:
    model, x = build(NETWORKS, "transposed")
    graph = ChannelGraph(model, x)
    assert repaired_layers(graph) == ("out", "head")
    assert unrepaired_layers(graph) == ("up",)


def test_labels_that_do_not_fit_the_samples_are_refused() -> None:
    model, x = build(NETWORKS, "residual")
    with pytest.raises(ValueError, match=r"labels have the shape \(3,\).*each of 2 samples"):
        calibrate(model, [x], labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="label -1 is negative"):
        calibrate(model, [x], labels=torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="have no labels"):
        calibrate(model, [x]).known_labels()


def test_maps_of_a_group_are_its_channels_in_group_order() -> None:
    model, x = build(NETWORKS, "residual")
    graph = ChannelGraph(model, x)
    calibration = calibrate(model, [x, x[:1]])
    stem, _ = (m for g in graph.groups if g.name == "stem" for m in g.producers)
    with torch.no_grad():
        once = F.relu(model.norm(model.stem(x)))
    expected = torch.cat([once, once[:1]])[:, stem.positions[:, 0]]
    assert torch.allclose(calibration.maps(stem), expected, atol=1e-6)
