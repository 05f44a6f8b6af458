"""The division of a budget by error curves, against trying all divisions."""

import itertools
from typing import Any

import numpy as np
import pytest
from pruning import tiny_env
from scipy.optimize import milp
from torch import nn

from amc_env import Budget, ChannelPruningEnv, Cost, EnvSettings
from amc_env.agents import make_agent
from amc_env.agents.division import (
    Curves,
    Division,
    fill_budget,
    knapsack,
    need_budget,
    total_error,
)
from amc_env.agents.milp import Programme
from amc_env.models import build_model


def params_of_the_end(cost: Cost) -> float:
    return float(sum(layer.params for layer in cost.layers if layer.name in ("last", "head")))


BUDGETS = {
    "flops": Budget(flops=0.5),
    "tight": Budget(flops=0.25),
    "params": Budget(params=0.4),
    "both": Budget(flops=0.5, params=0.4),
    "measure": Budget(flops=0.6, measures={"end": (params_of_the_end, 0.6)}),
}
every_budget = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)


def best_of_all(env: ChannelPruningEnv, curves: Curves) -> float:
    """The least error of all divisions that meet the budget, by trying every one."""
    names = [group.name for group in env.graph.groups]
    each = itertools.product(*(env.keeper.between(group) for group in env.graph.groups))
    divisions = (dict(zip(names, counts, strict=True)) for counts in each)
    return min(total_error(curves, counts) for counts in divisions if env.keeper.fits(counts))


def weighted(curves: Curves, seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).random(len(curves))
    return {name: c * curve for c, (name, curve) in zip(drawn, curves.items(), strict=True)}


# The dynamic programme


def test_the_knapsack_is_that_of_a_calculation_by_hand() -> None:
    # Of 10, the second group can have its costliest level only if the first has its cheapest.
    errors = [np.array([9.0, 4.0, 0.0]), np.array([8.0, 3.0, 0.0])]
    costs = [np.array([0.0, 5.0, 9.0]), np.array([0.0, 5.0, 10.0])]
    assert knapsack(errors, costs, 10.0) == [1, 1]
    assert knapsack(errors, costs, 9.0) == [2, 0]
    assert knapsack(errors, costs, 4.9) == [0, 0]
    # A sum that fits exactly may be lost to the rounding, another is not.
    assert knapsack(errors, costs, 19.1) == [2, 2]
    assert knapsack(errors, costs, 0.0) == [0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_the_best_of_all_choices(seed: int) -> None:
    generator = np.random.default_rng(seed)
    errors = [generator.random(4) for _ in range(5)]
    # Whole costs, so that rounding to buckets changes nothing.
    costs = [np.append(0, generator.integers(1, 40, 3)).astype(float) for _ in range(5)]
    choice = knapsack(errors, costs, 50.0)
    every = itertools.product(range(4), repeat=5)

    def sums(levels: Any, values: list[np.ndarray]) -> float:
        return float(sum(v[level] for v, level in zip(values, levels, strict=True)))

    assert sums(choice, costs) <= 50.0
    best = min(sums(levels, errors) for levels in every if sums(levels, costs) <= 50.0)
    assert sums(choice, errors) == pytest.approx(best)


@every_budget
@pytest.mark.parametrize("seed", range(3))
def test_divisions_meet_the_budget_and_are_near_the_best(budget: Budget, seed: int) -> None:
    env = tiny_env(budget=budget)
    division = Division(env)
    curves = weighted(division.curves, seed)
    counts = division.divide(curves)
    assert env.keeper.fits(counts)
    # Costs interact in this network, so that the programme alone is not exact.
    assert total_error(curves, counts) <= 1.1 * best_of_all(env, curves) + 1e-12
    assert division.divide(curves) == counts


@every_budget
@pytest.mark.parametrize("seed", range(3))
def test_the_integer_programme_finds_the_best(budget: Budget, seed: int) -> None:
    env = tiny_env(budget=budget)
    curves = weighted(Division(env).curves, seed)
    counts = Programme(env).divide(curves)
    assert env.keeper.fits(counts)
    assert total_error(curves, counts) == pytest.approx(best_of_all(env, curves), rel=1e-3)


@every_budget
def test_a_filled_budget_has_no_room_for_a_channel(budget: Budget) -> None:
    env = tiny_env(budget=budget)
    curves = Division(env).curves
    counts = fill_budget(env, env.keeper.min_counts, curves)
    assert env.keeper.fits(counts)
    for group in env.graph.groups:
        more = [c for c in env.keeper.between(group) if c > counts[group.name]]
        assert not more or not env.keeper.fits({**counts, group.name: more[0]})


def residual(**settings: Any) -> ChannelPruningEnv:
    from pruning import tiny_data

    data = tiny_data()
    model = nn.Sequential(nn.Conv2d(1, 3, 1), build_model("cifar_resnet20", num_classes=4, seed=0))
    return ChannelPruningEnv(
        model=model.eval(),
        data=data,
        budget=Budget(flops=0.5),
        settings=EnvSettings(precision="float32", **settings),
    )


def test_costs_that_add_up_are_divided_in_one_round() -> None:
    # With the residual stream kept whole, no two groups share a weight.
    env = residual(ignore=("0", "1.conv1"))
    division = Division(env)
    counts = division.divide(division.curves)
    assert env.keeper.fits(counts)
    exact = Programme(env).divide(division.curves)
    assert total_error(division.curves, counts) <= 1.001 * total_error(division.curves, exact)
    assert env.keeper.used(env.graph.cost(counts))[0] > 0.99


@pytest.mark.slow
def test_interacting_costs_of_a_residual_network_are_divided_well() -> None:
    env = residual()
    division = Division(env)
    exact = Programme(env).divide(division.curves)
    counts = division.divide(division.curves)
    assert env.keeper.fits(counts)
    assert env.keeper.fits(exact)
    assert total_error(division.curves, counts) <= 1.02 * total_error(division.curves, exact)


def test_every_division_of_a_process_stops_at_the_same_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = []

    def noted(*args: Any, options: dict[str, Any], **others: Any) -> Any:
        limits.append(options["node_limit"])
        return milp(*args, options=options, **others)

    monkeypatch.setattr("scipy.optimize.milp", noted)
    programme = Programme(tiny_env(budget=Budget(flops=0.5)))
    assert programme.largest() == programme.largest()
    assert limits == [2000, 2000]


def test_groups_that_keep_multiples_are_divided_into_multiples() -> None:
    settings = EnvSettings(round_to=4, precision="float32")
    env = tiny_env(budget=Budget(flops=0.6), settings=settings)
    division = Division(env)
    for counts in (division.divide(division.curves), Programme(env).divide(division.curves)):
        assert env.keeper.fits(counts)
        assert all(counts[g.name] in env.keeper.between(g) for g in env.graph.groups)


@pytest.mark.parametrize("name", ["blend", "spdy", "evopress", "milp"])
def test_without_a_budget_there_is_nothing_to_divide(name: str) -> None:
    with pytest.raises(ValueError, match=f"agent '{name}' divides a budget.* there is none; give"):
        make_agent(name).search(tiny_env(), episodes=2, seed=0)
    need_budget(tiny_env(budget=Budget(params=0.5)), name)


@every_budget
def test_the_largest_network_has_the_most_parameters_of_all_within_the_budget(
    budget: Budget,
) -> None:
    env = tiny_env(budget=budget)
    names = [group.name for group in env.graph.groups]
    each = itertools.product(*(env.keeper.between(group) for group in env.graph.groups))
    divisions = (dict(zip(names, counts, strict=True)) for counts in each)
    most = max(env.graph.cost(counts).params for counts in divisions if env.keeper.fits(counts))
    (episode,) = make_agent("most_parameters").search(env, episodes=1, seed=0).episodes
    assert env.graph.cost(episode.counts).params == most
