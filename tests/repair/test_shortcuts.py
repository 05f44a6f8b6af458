import pytest
import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import calibrate
from amc_env.repair.plan import Reconstruction, repaired_layers
from amc_env.repair.sequential import SequentialSettings, repair_sequentially_
from amc_env.repair.shortcuts import shortcuts


class Residual(nn.Module):
    """Two residual blocks, the first with batch norm before its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.c, self.d = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def first(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out: Tensor = x + self.norm(self.b(self.a(x).relu()))
        return out

    def second(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        z = self.d(self.c(y).relu())
        z += y
        out: Tensor = z
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(x).relu()).mean((2, 3))  # type: ignore[no-any-return]


def copied(_: str, other: Tensor) -> Tensor:
    return other.clone()


@pytest.fixture
def trained() -> tuple[Residual, Tensor]:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(24, 3, 8, 8)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2.0)
        for _ in range(10):
            model(x)
    return model.eval(), x


def test_the_shortcut_is_the_other_term_and_the_norms_scale(
    trained: tuple[Residual, Tensor],
) -> None:
    model, x = trained
    with torch.no_grad():
        found = shortcuts(model, ["stem", "a", "b", "d", "head"], x, keep=copied)
        assert found.keys() == {"b", "d"}
        first, second = found["b"], found["d"]
        assert torch.equal(first.other, model.stem(x).relu())
        variance = model.norm.running_var + model.norm.eps
        assert torch.allclose(first.scale, model.norm.weight / variance.sqrt())
        assert torch.equal(second.other, model.first(x).relu())
        assert torch.equal(second.scale, torch.ones(8))
        assert torch.equal(shortcuts(model, ["d"], x, keep=copied)["d"].other, second.other)
    assert not any(m._forward_hooks for m in model.modules())


class Weighted(nn.Module):
    """Sums of two layers of which one is multiplied, in either order."""

    def __init__(self, *, is_first: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.is_first = is_first

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        out: Tensor = torch.add(a, b, alpha=2) if self.is_first else b.add(a, alpha=2)
        return out


@pytest.mark.parametrize("is_first", [False, True])
def test_a_factor_of_the_second_term_counts(is_first: bool) -> None:
    model, x = Weighted(is_first=is_first).eval(), torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        found = shortcuts(model, ["a"], x, keep=copied)["a"]
        rebuilt = model.a(x) * found.scale[:, None, None] + found.other
        assert torch.allclose(rebuilt, model(x), atol=1e-6)
    assert found.scale.tolist() == ([1.0] * 3 if is_first else [2.0] * 3)


def test_the_sum_behind_a_linear_layer_has_a_scale_for_each_of_its_outputs() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x) + x
            return out

    x = torch.randn(2, 5, 3)
    found = shortcuts(Mixer().eval(), ["linear"], x, keep=copied)["linear"]
    assert torch.equal(found.other, x)
    assert found.scale.tolist() == [1.0] * 3


def test_aiming_at_the_sum_makes_up_for_the_shortcut(trained: tuple[Residual, Tensor]) -> None:
    model, x = trained
    graph = ChannelGraph(model, x[:2])
    plan = Reconstruction(graph, calibrate(model, [x], layers=repaired_layers(graph)), {})
    counts = {g.name: max(1, g.channels - 3) for g in graph.groups}
    kept = plan.kept(counts)
    errors = {}
    for sums in (False, True):
        compact = graph.compact(kept)
        plan.apply_(compact, counts)
        repair_sequentially_(
            compact,
            graph,
            kept,
            [x[:10], x[10:]],
            settings=SequentialSettings(match_residual_sums=sums),
        )
        with torch.no_grad():
            whole = model.second(x)[:, kept["stem"]]
            errors[sums] = float((compact.second(x) - whole).norm() / whole.norm())
    assert errors[True] < errors[False]
