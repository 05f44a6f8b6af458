"""Scores and factors that are kept: the same to the last bit, and never those of something else."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning import samples, tiny
from torch import Tensor, nn
from typing_extensions import override

from amc_env import ChannelGraph, RepairSettings, Split
from amc_env.calibration import Calibration
from amc_env.criteria import Criterion, make_criterion
from amc_env.repair.least_squares import DirectSolver, FactoredSolver
from amc_env.repair.pruner import Pruner
from amc_env.structure import ChannelGroup
from amc_env.tensor_store import TensorStore


class Branches(nn.Module):
    """A layer that reads two groups, a grouped convolution, and channels that are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.both = nn.Conv2d(10, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.both.weight[:3] = 0.0
            self.both.bias[:3] = -1.0

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        x = self.grouped(self.both(x).relu()).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def branches() -> nn.Module:
    torch.manual_seed(0)
    return Branches().eval()


@dataclass(frozen=True, kw_only=True)
class Once(Criterion):
    """Ranks by weights, and fails if it is asked after a file exists."""

    name = "once"
    until: str
    power: int = 1

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        assert not Path(self.until).exists()
        producer = group.producers[0]
        filters = calibration.model.get_submodule(producer.module).weight.flatten(1)
        return filters.abs().pow(self.power).sum(1)[producer.positions].sum(1)


class Plain(Criterion):
    """One of which nobody knows what it reads."""

    name = "plain"

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        return torch.arange(group.channels)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> TensorStore:
    return TensorStore(tmp_path / "kept", max_bytes=2**20, tell=said.append)


def pruner(
    store: TensorStore | None,
    model: nn.Module,
    criterion: Criterion | None = None,
    *,
    split: Split | None = None,
    **settings: Any,
) -> Pruner:
    given = split or samples(24)
    return Pruner(
        ChannelGraph(model, given.inputs[:2]),
        given,
        criterion or make_criterion("l2"),
        repair=RepairSettings(**settings),
        store=store,
    )


def kept_in(folder: Path) -> int:
    return len([*folder.glob("kept/*/index.json")])


def solvers(made: Pruner) -> set[type]:
    layers = made.plan._layers.values()
    return {type(part.solver) for layer in layers for part in layer._parts}


@pytest.mark.parametrize("build", [tiny, branches])
@pytest.mark.parametrize("ridge", [1e-4, 0.0])
def test_what_is_kept_gives_the_same_networks_to_the_last_bit(
    build: Callable[[], nn.Module], ridge: float, store: TensorStore, tmp_path: Path
) -> None:
    first = pruner(store, build(), Once(until=str(tmp_path / "ranked")), ridge=ridge)
    (tmp_path / "ranked").touch()
    second = pruner(store, build(), Once(until=str(tmp_path / "ranked")), ridge=ridge)
    assert not second.calibration.grams
    assert second.ranking_seconds == first.ranking_seconds
    if build is branches:
        assert solvers(second) == solvers(first)
        assert FactoredSolver in solvers(first)
        # Without a ridge, dead channels leave nothing to factor.
        assert (DirectSolver in solvers(first)) == (ridge == 0.0)
    for group in first.graph.groups:
        assert torch.equal(first.scores[group.name], second.scores[group.name])
        errors = [made.squared_errors(group.name) for made in (first, second)]
        assert (errors[0] == errors[1]).all()
    some = {g.name: [*range(g.channels - 1, 0, -2)] for g in first.graph.groups}
    for keep in (some, *({g.name: g.channels - n for g in first.graph.groups} for n in (1, 2, 3))):
        one, other = (made.prune(keep).model.state_dict() for made in (first, second))
        assert all(torch.equal(x, other[name]) for name, x in one.items())
        one, other = (made.realise(keep).state_dict() for made in (first, second))
        assert all(torch.equal(x, other[name]) for name, x in one.items())


def shifted(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters())[0] += 1e-3
    return model


class Otherwise(Branches):
    """The same weights, and other code."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def otherwise() -> nn.Module:
    model = Otherwise()
    model.load_state_dict(branches().state_dict())
    # `repr` does not tell them apart any more.
    Otherwise.__name__ = "Branches"
    return model.eval()


SAMPLES = samples(24)
OTHERS = {
    "weights": lambda store: pruner(store, shifted(branches())),
    "code": lambda store: pruner(store, otherwise()),
    "samples": lambda store: pruner(store, branches(), split=samples(24, seed=1)),
    "fewer samples": lambda store: pruner(store, branches(), split=samples(23)),
    "labels": lambda store: pruner(
        store, branches(), split=replace(SAMPLES, labels=SAMPLES.labels.flip(0))
    ),
    "criterion": lambda store: pruner(store, branches(), make_criterion("l1")),
    "ridge": lambda store: pruner(store, branches(), ridge=1e-3),
    "positions": lambda store: pruner(store, branches(), sampled_positions=8),
    "seed": lambda store: pruner(store, branches(), seed=1),
    "batch": lambda store: pruner(store, branches(), calibration_batch=8),
    "no repair": lambda store: pruner(store, branches(), repair="none"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_of_anything_else_nothing_is_taken(other: str, store: TensorStore, tmp_path: Path) -> None:
    pruner(store, branches())
    OTHERS[other](store)
    assert kept_in(tmp_path) == 2


def test_options_of_a_criterion_tell_it_from_others(store: TensorStore, tmp_path: Path) -> None:
    for power in (1, 2, 1):
        pruner(store, branches(), Once(until=str(tmp_path / "no"), power=power))
    assert kept_in(tmp_path) == 2


def test_settings_of_episodes_alone_change_nothing(store: TensorStore, tmp_path: Path) -> None:
    pruner(store, branches())
    pruner(store, branches(), episode_samples=8)
    pruner(store, branches(), repair="plain")
    assert kept_in(tmp_path) == 1


@dataclass(frozen=True, kw_only=True)
class Weighted(Plain):
    """One whose settings cannot be told by a few words."""

    weights: Tensor


@pytest.mark.parametrize("criterion", [Plain(), Weighted(weights=torch.ones(10**4))])
def test_of_a_criterion_of_unknown_settings_nothing_is_kept(
    criterion: Criterion, store: TensorStore, tmp_path: Path, said: list[str]
) -> None:
    pruner(store, branches(), criterion)
    assert kept_in(tmp_path) == 0
    assert len(said) == 1
    assert f"{type(criterion).__name__} is no dataclass of plain values" in said[0]


def test_factors_are_kept_without_their_zeros(store: TensorStore, tmp_path: Path) -> None:
    pruner(store, tiny(), repair="plain")
    tight = TensorStore(tmp_path / "tight", max_bytes=2**10)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    made = pruner(None, tiny(), repair="plain")
    dense = sum(
        x.numel() * 8
        for problems in made.plan.problems.values()
        for problem in problems
        for x in (problem.anchor, problem.factor)
    )
    assert size < 0.8 * dense
    pruner(tight, tiny(), repair="plain")
    assert not (tmp_path / "tight").exists()
