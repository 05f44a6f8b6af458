"""The searchers that a learner has to beat: that each is what its name says."""

import sys
from math import ceil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pruning import tiny_env
from torch import Tensor, nn

from amc_env import (
    Budget,
    ChannelPruningEnv,
    Cost,
    EnvSettings,
    PruningData,
    RepairSettings,
    Split,
)
from amc_env.agents import SearchResult, error_curves, make_agent
from amc_env.agents.episodes import Recorder
from amc_env.agents.error_curves import allocate
from amc_env.agents.searchers import uniform_counts, uniform_sparsity
from amc_env.models import build_model
from amc_env.repair.pruner import Pruner

# At 0.52 the sparsity lies where single precision would turn the rounding of one group.
RATIOS = (0.2, 0.25, 0.5, 0.52, 0.75, 0.99)
WIDTHS = {group.name: group.channels for group in tiny_env().graph.groups}


def rounded(env: ChannelPruningEnv, sparsity: float) -> dict[str, int]:
    """What one sparsity keeps of every group, by hand."""
    return {
        g.name: max(ceil(0.2 * g.channels - 1e-9), ceil((1 - sparsity) * g.channels - 1e-9))
        for g in env.graph.groups
    }


# Uniform


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_uniform_sparsity_is_the_least_that_fits(ratio: float) -> None:
    env = tiny_env(budget=Budget(flops=ratio))
    sparsity = uniform_sparsity(env)
    assert env.keeper.fits(rounded(env, sparsity))
    assert not env.keeper.fits(rounded(env, sparsity - 1e-6))


def test_without_a_budget_uniform_prunes_nothing() -> None:
    env = tiny_env()
    assert uniform_sparsity(env) == 0.0
    assert make_agent("uniform").search(env, episodes=1, seed=0).best.counts == WIDTHS


@pytest.mark.parametrize("ratio", RATIOS)
def test_uniform_is_one_episode_of_equal_sparsities(ratio: float) -> None:
    env = tiny_env(budget=Budget(flops=ratio))
    (episode,) = make_agent("uniform").search(env, episodes=9, seed=0).episodes
    sparsity = uniform_sparsity(env)
    equal = rounded(env, sparsity)
    for name, executed in zip(episode.counts, episode.sparsities, strict=True):
        assert episode.counts[name] - equal[name] in (0, 1)
        assert min(sparsity, 0.8) - 2 / WIDTHS[name] < executed <= sparsity
    # What is left of the budget is spent: no group could keep one channel more.
    for name, count in episode.counts.items():
        if count == equal[name] < WIDTHS[name]:
            assert not env.keeper.fits({**episode.counts, name: count + 1})


def test_uniform_keeps_multiples_where_they_are_asked_for() -> None:
    settings = EnvSettings(
        round_to=4, repair=RepairSettings(calibration_batch=24), precision="float32"
    )
    env = tiny_env(budget=Budget(flops=0.6), settings=settings)
    episode = make_agent("uniform").search(env, episodes=1, seed=0).best
    assert episode.flops_ratio <= 0.6
    for group in env.graph.groups:
        assert episode.counts[group.name] in group.counts
        assert episode.counts[group.name] % 4 == 0 or episode.counts[group.name] == group.channels


@pytest.mark.parametrize("kept", range(3, 13))
def test_counts_are_played_as_they_are_given(kept: int) -> None:
    recorder = Recorder(tiny_env(reward=lambda _: 0.0))
    counts = {name: min(kept, width) for name, width in WIDTHS.items()}
    assert recorder.play_counts(counts).counts == counts


# Error curves


class HalfIdle(nn.Module):
    """Two convolutions; of the first one's eight channels, four are always zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            for parameter in self.first.parameters():
                parameter[[1, 2, 5, 7]] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def half_idle(ratio: float) -> ChannelPruningEnv:
    generator = torch.Generator().manual_seed(0)
    split = Split(inputs=torch.randn(40, 1, 8, 8, generator=generator), labels=torch.arange(40) % 4)
    return ChannelPruningEnv(
        model=HalfIdle().eval(),
        data=PruningData(calibration=split, validation=split),
        reward="kl_to_original",
        budget=Budget(flops=ratio),
        settings=EnvSettings(precision="float32"),
    )


def summed_error(env: ChannelPruningEnv, counts: dict[str, int]) -> float:
    curves = {name: env.pruner.plan.errors(name) for name in counts}
    return sum(float(curves[name][count - 1]) ** 2 for name, count in counts.items())


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_curves_meet_the_budget_the_same_way_every_time(ratio: float) -> None:
    env = tiny_env(budget=Budget(flops=ratio))
    counts = allocate(env)
    assert env.keeper.fits(counts)
    assert allocate(tiny_env(budget=Budget(flops=ratio))) == counts
    (episode,) = make_agent("error_curves").search(env, episodes=9, seed=0).episodes
    assert episode.counts == counts


def plainly_allocated(env: ChannelPruningEnv) -> dict[str, int]:
    """The greedy division of the budget with every cost of the whole network counted anew."""
    ladders = {g.name: error_curves._ladder(env, g) for g in env.graph.groups}
    curves = {g.name: error_curves._convex_errors(env, g) for g in env.graph.groups}
    steps = dict.fromkeys(ladders, 0)
    counts = {name: ladder[0] for name, ladder in ladders.items()}
    while not env.keeper.fits(counts):
        now = env.keeper.used(env.graph.cost(counts))
        best, best_price = "", float("inf")
        for name, ladder in ladders.items():
            if steps[name] + 1 < len(ladder):
                fewer = ladder[steps[name] + 1]
                then = env.keeper.used(env.graph.cost({**counts, name: fewer}))
                saved = sum(a - b for a, b in zip(now, then, strict=True) if a > 1.0)
                lost = float(curves[name][fewer - 1] - curves[name][counts[name] - 1])
                price = lost / saved if saved > 0.0 else sys.float_info.max
                if price < best_price:
                    best, best_price = name, price
        steps[best] += 1
        counts[best] = ladders[best][steps[best]]
    return counts


def resnet(budget: Budget, max_keep: float = 1.0) -> ChannelPruningEnv:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 32, 32, generator=generator)
    split = Split(inputs=images, labels=torch.arange(6) % 4)
    return ChannelPruningEnv(
        model=build_model("cifar_resnet20", num_classes=4, seed=0).eval(),
        data=PruningData(calibration=split, validation=split),
        budget=budget,
        settings=EnvSettings(max_keep=max_keep, precision="float32"),
    )


@pytest.mark.parametrize(
    "budget",
    [Budget(flops=0.5), Budget(flops=0.6, params=0.3), Budget(measures={"end": ("flops", 0.3)})],
    ids=["flops", "both", "measure"],
)
def test_a_residual_network_is_cut_as_if_every_cost_were_counted_anew(budget: Budget) -> None:
    env = resnet(budget)
    assert allocate(env) == plainly_allocated(env)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("also", [{}, {"params": 0.5}], ids=["flops", "both"])
def test_the_curves_cut_as_if_every_cost_were_counted_anew(
    ratio: float, also: dict[str, float]
) -> None:
    env = tiny_env(budget=Budget(flops=ratio, **also))
    assert allocate(env) == plainly_allocated(env)


def test_only_the_groups_that_share_a_weight_change_what_a_cut_saves() -> None:
    graph = resnet(Budget(flops=0.5)).graph
    point = graph.cost_point()
    for group in graph.groups:
        once = {group.name: group.channels - 1}
        saved = point.cost.flops - point.with_counts(once).cost.flops
        for other in {g.name for g in graph.groups} - point.sharing(group.name):
            there = point.with_counts({other: 1})
            assert there.cost.flops - there.with_counts(once).cost.flops == saved
        assert group.name in point.sharing(group.name)


def test_a_search_keeps_no_more_than_the_upper_bound() -> None:
    settings = EnvSettings(
        max_keep=0.5, repair=RepairSettings(calibration_batch=24), precision="float32"
    )
    for name in ("uniform", "error_curves"):
        free = make_agent(name).search(tiny_env(settings=settings), episodes=1, seed=0).best
        assert free.counts == {"stem": 4, "wide": 6, "last": 5}
    for ratio in (0.2, 0.4):
        env = tiny_env(budget=Budget(flops=ratio), settings=settings)
        for counts in (allocate(env), uniform_counts(env)):
            assert all(counts[name] <= WIDTHS[name] // 2 for name in WIDTHS)
            assert env.keeper.fits(counts)
    assert uniform_sparsity(tiny_env(settings=settings)) == 0.5


def params_of_the_end(cost: Cost) -> float:
    return float(sum(layer.params for layer in cost.layers if layer.name in ("last", "head")))


def test_the_curves_cut_only_what_the_budget_counts() -> None:
    measured = {"end": (params_of_the_end, 0.6)}
    counts = allocate(tiny_env(budget=Budget(measures=measured)))
    assert counts["stem"] == WIDTHS["stem"]
    assert min(counts["wide"] / WIDTHS["wide"], counts["last"] / WIDTHS["last"]) < 1
    env = tiny_env(budget=Budget(flops=0.5, measures=measured))
    both = allocate(env)
    assert both == plainly_allocated(env)
    assert tiny_env(budget=Budget(flops=0.5, measures=measured)).keeper.fits(both)
    assert both["stem"] < WIDTHS["stem"]


def test_without_a_budget_the_curves_cut_nothing() -> None:
    assert allocate(tiny_env()) == WIDTHS


def test_idle_channels_are_cut_first_and_only_they() -> None:
    env = half_idle(0.55)
    counts = allocate(env)
    assert counts == {"first": 4, "second": 8}
    assert sorted(env.pruner.plan.kept(counts)["first"].tolist()) == [0, 3, 4, 6]
    assert make_agent("error_curves").search(env, episodes=1, seed=0).best.reward == pytest.approx(
        0.0, abs=1e-5
    )


@pytest.mark.parametrize("ratio", [0.4, 0.55])
def test_the_curves_lose_less_than_uniform(ratio: float) -> None:
    env = half_idle(ratio)
    uniform = make_agent("uniform").search(env, episodes=1, seed=0).best
    curves = make_agent("error_curves").search(env, episodes=1, seed=0).best
    assert summed_error(env, curves.counts) < 0.8 * summed_error(env, uniform.counts)


def hull_of(each: dict[str, list[float]] | None) -> list[float]:
    """The convex curve of a group that layers read with these squared residuals."""

    def layer_errors(name: str) -> dict[str, Tensor]:
        if each is None:
            raise ValueError(f"no layer that reads group {name!r} is repaired")
        return {n: torch.tensor(e, dtype=torch.float64).sqrt() for n, e in each.items()}

    group: Any = SimpleNamespace(name="g", channels=5)
    pruner: Any = SimpleNamespace(
        plan=SimpleNamespace(layer_errors=layer_errors),
        graph=SimpleNamespace(group=lambda _: group),
    )
    env: Any = SimpleNamespace(
        pruner=SimpleNamespace(squared_errors=lambda name: Pruner.squared_errors(pruner, name))
    )
    return error_curves._convex_errors(env, group).tolist()


def test_the_hull_bridges_what_bulges() -> None:
    # From (1, 8) straight to (3, 2), past (2, 7); then to (5, 0), past (4, 2).
    assert hull_of({"a": [8, 7, 2, 2, 0]}) == pytest.approx([8, 5, 2, 1, 0])


def test_the_hull_leaves_a_convex_curve_as_it_is() -> None:
    assert hull_of({"a": [16, 9, 4, 1, 0]}) == pytest.approx([16, 9, 4, 1, 0])


def test_the_curves_of_several_readers_add_up() -> None:
    assert hull_of({"a": [8, 7, 2, 2, 0], "b": [1, 0, 0, 0, 0]}) == pytest.approx([9, 5.5, 2, 1, 0])


def test_a_group_that_nothing_repaired_reads_counts_alike() -> None:
    assert hull_of(None) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


# Black boxes


def towards(target: float) -> Any:
    """A reward of the counts alone, greatest where every group keeps about that share."""

    def reward(context: Any) -> float:
        return -sum((count / WIDTHS[name] - target) ** 2 for name, count in context.counts.items())

    return reward


def rewards(name: str, *, episodes: int) -> np.ndarray:
    result: SearchResult = make_agent(name).search(
        tiny_env(reward=towards(0.6)), episodes=episodes, seed=0
    )
    assert len(result.episodes) == episodes
    return np.array([episode.reward for episode in result.episodes])


def test_cma_es_improves_on_its_first_generation() -> None:
    generation = 4 + int(3 * np.log(3))
    paid = rewards("cma_es", episodes=15 * generation).reshape(15, generation)
    assert paid[-1].mean() > paid[0].max()


def test_tpe_improves_on_its_random_start() -> None:
    paid = rewards("tpe", episodes=60)
    assert paid[-20:].mean() > 0.5 * paid[:10].mean()


def test_random_search_covers_the_whole_range() -> None:
    result = make_agent("random").search(tiny_env(reward=towards(0.6)), episodes=120, seed=0)
    kept = np.array([list(episode.counts.values()) for episode in result.episodes])
    assert kept.min(0).tolist() == [2, 3, 2]
    assert kept.max(0).tolist() == [8, 12, 10]
