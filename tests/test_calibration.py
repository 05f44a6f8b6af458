import pytest
import torch
import torch.nn.functional as F
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import RowSampling, calibrate, layer_rows
from amc_env.reconstruction import repaired_layers

LAYERS = {
    "plain": nn.Conv2d(6, 4, 3, padding=1),
    "strided": nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(0, 2)),
    "dilated": nn.Conv2d(6, 4, 3, dilation=2, bias=False),
    "grouped": nn.Conv2d(6, 4, 3, groups=2),
    "same": nn.Conv2d(6, 4, (3, 5), padding="same"),
    "valid": nn.Conv2d(6, 4, 2, padding="valid"),
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
    assert repaired_layers(ChannelGraph(model, x)) == ("out", "head")
