"""Budgets for latency, whose tables have steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_tables import in_eights, table_by, uneven
from pruning import tiny, tiny_env

from amc_env import Budget, ChannelGraph, EnvSettings, RepairSettings
from amc_env.agents import AGENTS, make_agent
from amc_env.env.budget import BudgetKeeper
from amc_env.models import build_model

TINY = ChannelGraph(tiny(), torch.randn(2, 1, 8, 8))
RESNET = ChannelGraph(build_model("cifar_resnet20").eval(), torch.randn(2, 3, 32, 32))
UNEVEN = {"tiny": (TINY, table_by(uneven, TINY)), "resnet20": (RESNET, table_by(uneven, RESNET))}
FAST = RepairSettings(calibration_batch=24)


@pytest.mark.parametrize("name", UNEVEN)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_walk_ends_over_a_latency_with_steps(name: str, data: st.DataObject) -> None:
    graph, table = UNEVEN[name]
    keeper = BudgetKeeper(graph, Budget(latency=0.6, table=table))
    decided: dict[str, int] = {}
    for group in graph.groups:
        allowed = keeper.allowed(group, decided)
        assert keeper.min_counts[group.name] in allowed
        decided[group.name] = data.draw(st.sampled_from(allowed))
    assert table.milliseconds(graph.cost(decided)) <= 0.6 * table.milliseconds(graph.cost())


def test_all_that_fits_is_allowed_beyond_what_does_not() -> None:
    graph, table = UNEVEN["tiny"]
    keeper = BudgetKeeper(graph, Budget(latency=0.55, table=table))
    group = graph.group("wide")
    allowed = list(keeper.allowed(group, {}))
    every = [c for c in keeper.between(group) if keeper.fits({**keeper.min_counts, "wide": c})]
    assert allowed == every
    # A multiple fits although a smaller number does not; bisection would not have found it.
    gaps = [c for c in keeper.between(group) if c < allowed[-1] and c not in allowed]
    assert gaps


@pytest.mark.parametrize("name", UNEVEN)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_scaled_and_spent_numbers_meet_it(name: str, data: st.DataObject) -> None:
    graph, table = UNEVEN[name]
    keeper = BudgetKeeper(graph, Budget(latency=0.6, table=table))
    counts = {g.name: data.draw(st.sampled_from(keeper.between(g))) for g in graph.groups}
    for found in (keeper.scaled(counts), keeper.spent(counts)):
        assert keeper.fits(found)
        assert all(found[g.name] in keeper.between(g) for g in graph.groups)
    if keeper.fits(counts):
        assert keeper.scaled(counts) == counts


def test_a_latency_and_macs_hold_together() -> None:
    graph, table = UNEVEN["resnet20"]
    budget = Budget(flops=0.5, latency=0.7, table=table)
    keeper = BudgetKeeper(graph, budget)
    found = graph.cost(keeper.scaled({}))
    assert found.flops <= 0.5 * graph.cost().flops
    assert table.milliseconds(found) <= 0.7 * table.milliseconds(graph.cost())
    assert budget.target() == 0.5


def test_a_latency_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget for latency needs a table"):
        Budget(latency=0.5)
    _, table = UNEVEN["tiny"]
    with pytest.raises(ValueError, match="the budget for latency is 2; give a ratio"):
        Budget(latency=2, table=table)
    with pytest.raises(ValueError, match="has no layer"):
        BudgetKeeper(RESNET, Budget(latency=0.5, table=table))


@pytest.mark.parametrize("budgeting", ["clip", "scale"])
def test_an_episode_ends_within_its_latency(budgeting: str) -> None:
    _, table = UNEVEN["tiny"]
    chosen = EnvSettings(repair=FAST, precision="float32", budgeting=budgeting)  # type: ignore[arg-type]
    env = tiny_env(budget=Budget(latency=0.6, table=table), settings=chosen)
    observation, _ = env.reset(seed=0)
    done, info = False, {}
    while not done:
        assert env.observation_space.contains(observation)
        observation, _, done, _, info = env.step(np.array([0.1], dtype=np.float32))
    found, whole = env.graph.cost(info["counts"]), env.graph.cost()
    assert table.milliseconds(found) <= 0.6 * table.milliseconds(whole)
    assert info["policy"].budget == {"latency": 0.6}


def test_observations_tell_milliseconds_in_the_place_of_macs() -> None:
    _, table = UNEVEN["tiny"]
    env = tiny_env(budget=Budget(latency=0.6, table=table))
    env.reset(seed=0)
    observation, *_ = env.step(np.array([0.5], dtype=np.float32))
    seen = dict(zip(env.feature_names, observation, strict=True))
    cost = env.graph.cost(env.counts)
    left = sum(table.by_layer(cost)) / sum(table.by_layer(env.graph.cost()))
    assert seen["flops_removed"] == pytest.approx(1.0 - left, abs=1e-6)
    assert seen["target"] == pytest.approx(0.6)


@pytest.mark.parametrize("agent", sorted(set(AGENTS) & {"uniform", "error_curves", "spdy", "milp"}))
def test_agents_that_calculate_stay_within_a_latency_with_steps(agent: str) -> None:
    _, table = UNEVEN["tiny"]
    env = tiny_env(budget=Budget(latency=0.6, table=table))
    found = make_agent(agent).search(env, episodes=2, seed=0)
    assert env.keeper.fits(found.best.counts)


def test_round_to_auto_is_the_table_s_multiple() -> None:
    model = build_model("cifar_vgg16", seed=0).eval()
    table = table_by(in_eights, ChannelGraph(model, torch.randn(2, 3, 32, 32)))
    auto = EnvSettings(round_to="auto")
    assert auto.multiple(Budget(flops=0.5, table=table)) == 8
    assert EnvSettings(round_to=4).multiple(None) == 4
    with pytest.raises(ValueError, match="round_to is auto, but the budget has no table"):
        auto.multiple(Budget(flops=0.5))
    with pytest.raises(ValueError, match="round_to is atuo; give 1 or more"):
        EnvSettings(round_to="atuo")  # type: ignore[arg-type]
