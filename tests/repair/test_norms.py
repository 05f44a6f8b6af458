import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amc_env.repair.norms import rebase_norms_, reestimate_norms_


class Normed(nn.Sequential):
    """A convolution and a batch norm with unlikely statistics."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5))
        self[1].running_mean.fill_(7.0)


def test_norms_get_the_statistics_of_the_samples() -> None:
    model, x = Normed().eval(), torch.randn(64, 2, 4, 4)
    reestimate_norms_(model, x.split(32))
    with torch.no_grad():
        out = model[0](x)
        normal = model(x)
    assert torch.allclose(model[1].running_mean, out.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=0.05)
    assert model[1].momentum == 0.3
    assert model[1].num_batches_tracked == 0
    assert not model[1].training


def test_norms_keep_what_they_had_when_a_batch_cannot_be_run() -> None:
    model = Normed()
    with pytest.raises(RuntimeError):
        reestimate_norms_(model, [torch.randn(4, 2, 3, 3), torch.randn(4, 5, 3, 3)])
    assert model.training
    assert model[1].running_mean.tolist() == [7.0] * 3
    assert model[1].momentum == 0.3
    with pytest.raises(ValueError, match="no calibration samples"):
        reestimate_norms_(model, [])
    with pytest.raises(ValueError, match="no batch norm"):
        reestimate_norms_(nn.Linear(2, 2), [torch.ones(2, 2)])


def weighted(norm: nn.Module) -> nn.Module:
    """A norm with unlikely weights and statistics."""
    draw = torch.Generator().manual_seed(3)
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=draw) + 0.5
    return norm


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(3), (64, 3, 5, 5)),
        (nn.BatchNorm1d(3, eps=0.1), (64, 3)),
        (nn.BatchNorm1d(3), (64, 3, 7)),
        (nn.BatchNorm3d(3), (64, 3, 2, 3, 2)),
    ],
)
def test_a_rebased_norm_computes_the_same_in_training_mode_too(
    norm: nn.Module, shape: tuple[int, ...]
) -> None:
    norm, x = weighted(norm).eval(), 3 * torch.randn(*shape) + 2
    with torch.no_grad():
        before = norm(x)
        away = (norm.train()(x) - before).abs().max()
        norm = weighted(norm).eval()
        # The batches are unequal, and every value counts alike.
        rebase_norms_(norm, x.split(40))
        after = norm(x)
        trained = norm.train()(x)
    assert torch.allclose(after, before, atol=1e-5)
    assert torch.allclose(trained, before, atol=1e-4)
    assert away > 0.1
    assert all(parameter.requires_grad for parameter in norm.parameters())


def test_a_channel_that_never_varies_stays_as_it_is() -> None:
    norm, x = weighted(nn.BatchNorm2d(3)).eval(), torch.randn(8, 3, 4, 4)
    x[:, 1] = 2.5
    with torch.no_grad():
        before = norm(x)
        rebase_norms_(norm, [x])
        assert torch.allclose(norm(x), before, atol=1e-5)
    assert norm.running_var[1] == 0


class Squared(nn.Module):
    """Makes a weight of another."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.square()


class Doubled(nn.BatchNorm2d):
    """Called a batch norm, but its bias counts twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias[:, None, None]


def computed() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    parametrize.register_parametrization(norm, "weight", Squared())
    return norm


def tied() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    "make",
    [
        tied,
        computed,
        lambda: Doubled(3),
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
    ],
    ids=["tied", "computed", "another", "no weights", "no statistics"],
)
def test_norms_that_cannot_be_rebased_are_left_as_they_are(make: Callable[[], nn.Module]) -> None:
    model = weighted(make()).eval()
    before = copy.deepcopy(model.state_dict())
    rebase_norms_(model, [5 * torch.randn(16, 3, 4, 4)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_that_runs_twice_or_never_computes_the_same() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.idle = weighted(nn.BatchNorm2d(3)), weighted(nn.BatchNorm2d(3))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(2 * self.norm(x))
            return out

    model, x = Twice(), torch.randn(16, 3, 4, 4)
    before = copy.deepcopy(model)
    rebase_norms_(model, x.split(8))
    assert model.training
    assert torch.allclose(model.eval()(x), before.eval()(x), atol=1e-5)
    assert not torch.equal(model.norm.running_var, before.norm.running_var)
    assert torch.equal(model.idle.running_var, before.idle.running_var)
