from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning import tiny, tiny_env

from amc_env import Budget, ChannelGraph, Cost
from amc_env.env.budget import MEASURE, BudgetKeeper
from amc_env.models import build_model

GRAPHS = {
    "tiny": ChannelGraph(tiny(), torch.randn(2, 1, 8, 8)),
    "resnet20": ChannelGraph(build_model("cifar_resnet20").eval(), torch.randn(2, 3, 32, 32)),
    "rounded": ChannelGraph(
        build_model("cifar_resnet20").eval(), torch.randn(2, 3, 32, 32), round_to=4
    ),
}
BUDGETS = {
    "flops": Budget(flops=0.45),
    "params": Budget(params=0.4),
    "both": Budget(flops=0.6, params=0.5),
    "own": Budget(measures={"heaviest": (lambda c: max(x.flops for x in c.layers), 0.7)}),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_walk_ends_over_budget(graph: ChannelGraph, budget: Budget, data: st.DataObject) -> None:
    keeper = BudgetKeeper(graph, budget)
    decided: dict[str, int] = {}
    for group in graph.groups:
        decided[group.name] = data.draw(st.sampled_from(keeper.allowed(group, decided)))
    cost, full = graph.cost(decided), graph.cost()
    for measure, ratio in budget.limits().values():
        assert measure(cost) <= ratio * measure(full)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_what_is_allowed_is_all_that_can_be(graph: ChannelGraph) -> None:
    keeper = BudgetKeeper(graph, Budget(flops=0.3))
    decided: dict[str, int] = {}
    for group in graph.groups:
        allowed = keeper.allowed(group, decided)
        assert keeper.fits({**keeper.min_counts, **decided, group.name: allowed[-1]})
        above = [c for c in group.counts if c > allowed[-1]]
        assert not above or not keeper.fits({**keeper.min_counts, **decided, group.name: above[0]})
        assert allowed[0] >= 0.2 * group.channels - 1e-9
        decided[group.name] = allowed[-1]


def test_without_a_budget_everything_above_the_least_is_allowed() -> None:
    graph = GRAPHS["tiny"]
    keeper = BudgetKeeper(graph, None, min_keep=0.5)
    group = graph.groups[0]
    assert list(keeper.allowed(group, {})) == list(range(4, 9))


@pytest.mark.parametrize("ratio", [0, 1, 2, -0.5, True, float("nan"), "half"])
def test_a_budget_that_is_no_ratio_is_refused(ratio: Any) -> None:
    with pytest.raises(
        ValueError, match=r"the budget for flops is .*; give a ratio of the original"
    ):
        Budget(flops=ratio)


def test_a_budget_without_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="the budget has no limit"):
        Budget()


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("min_keep", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("name", ["flops", "params"])
def test_the_ratio_that_an_unreachable_budget_is_told_is_accepted(
    graph: ChannelGraph, min_keep: float, name: str
) -> None:
    def keeper(ratio: float) -> BudgetKeeper:
        return BudgetKeeper(graph, Budget(**{name: ratio}), min_keep=min_keep)

    with pytest.raises(ValueError, match=r"is 0.001, but with every group at its fewest") as e:
        keeper(0.001)
    named = str(e.value).split("channels, ")[1].split(" ")[0]
    assert keeper(float(named)).fits(keeper(float(named)).min_counts)
    with pytest.raises(ValueError, match="with every group at its fewest"):
        keeper(float(named) - 1e-4)


def test_a_budget_that_cuts_cannot_change_is_told_so() -> None:
    head = {"head": (lambda cost: float(cost.layers[0].params >= 0), 0.5)}
    with pytest.raises(ValueError, match="all of the original is left; give no budget for it"):
        BudgetKeeper(GRAPHS["tiny"], Budget(measures=head))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_measure_that_is_no_cost_is_refused(value: float) -> None:
    budget = Budget(measures={"mine": (lambda _: value, 0.5)})
    with pytest.raises(ValueError, match=r"measure 'mine' gives .*; it must give"):
        BudgetKeeper(GRAPHS["tiny"], budget)


# The upper bound


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("budget", [None, Budget(flops=0.4)], ids=["free", "flops"])
def test_both_bounds_hold_for_what_is_allowed(graph: ChannelGraph, budget: Budget | None) -> None:
    keeper = BudgetKeeper(graph, budget, min_keep=0.25, max_keep=0.6)
    decided: dict[str, int] = {}
    for group in graph.groups:
        allowed = keeper.allowed(group, decided)
        assert list(allowed) == list(keeper.between(group))[: len(allowed)]
        assert keeper.min_counts[group.name] == allowed[0]
        assert keeper.min_counts[group.name] >= 0.25 * group.channels - 1e-9
        fitting = [c for c in group.counts if 0.25 * group.channels <= c <= 0.6 * group.channels]
        if fitting:
            assert keeper.max_counts[group.name] == fitting[-1]
        decided[group.name] = allowed[-1]
        assert budget is not None or decided[group.name] == keeper.max_counts[group.name]


def test_a_group_without_a_number_between_the_bounds_keeps_its_fewest() -> None:
    # A group of 8 may keep 4 or 8 here, and neither is between 0.6 and 0.9 of it.
    graph = ChannelGraph(tiny(), torch.randn(2, 1, 8, 8), round_to=4)
    keeper = BudgetKeeper(graph, None, min_keep=0.6, max_keep=0.9)
    assert list(keeper.allowed(graph.group("stem"), {})) == [8]
    assert keeper.max_counts["stem"] == keeper.min_counts["stem"] == 8


@pytest.mark.parametrize(("least", "most"), [(0.5, 0.4), (-0.1, 1.0), (0.2, 1.1)])
def test_bounds_that_are_no_ratios_in_order_are_refused(least: float, most: float) -> None:
    with pytest.raises(ValueError, match=f"min_keep is {least} and max_keep is {most}"):
        BudgetKeeper(GRAPHS["tiny"], None, min_keep=least, max_keep=most)


# Measures


def heaviest(cost: Cost) -> float:
    return float(max(layer.flops for layer in cost.layers))


@pytest.mark.parametrize(
    "budget",
    [
        Budget(measures={"flops": 0.5}),
        Budget(measures={"macs": ("flops", 0.5)}),
        Budget(measures={"macs": (lambda cost: float(cost.flops), 0.5)}),
    ],
    ids=["name", "named", "function"],
)
def test_a_measure_is_given_by_name_or_as_a_function(budget: Budget) -> None:
    graph = GRAPHS["tiny"]
    ours, plain = BudgetKeeper(graph, budget), BudgetKeeper(graph, Budget(flops=0.5))
    for group in graph.groups:
        assert ours.allowed(group, {}) == plain.allowed(group, {})


def test_a_measure_by_a_path_carries_its_options() -> None:
    found = MEASURE.make_target(f"{__name__}.heaviest")
    assert found is heaviest
    assert list(Budget(measures={"heaviest": (found, 0.5)}).limits()) == ["heaviest"]


def test_a_measure_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="budget measure 'flop' does not exist; the nearest is 'flops'"
    ):
        Budget(measures={"flop": 0.5})
    with pytest.raises(ValueError, match="which is no budget measure"):
        Budget(measures={"mine": (3, 0.5)})
    with pytest.raises(ValueError, match="the budget for flops is given twice"):
        Budget(flops=0.5, measures={"flops": 0.4})
    with pytest.raises(ValueError, match="give a measure and its ratio"):
        Budget(measures={"mine": (heaviest,)})
    with pytest.raises(ValueError, match="the budget for mine is 2; give a ratio"):
        Budget(measures={"mine": (heaviest, 2)})


def test_the_name_of_a_measure_reaches_the_policy_and_the_message() -> None:
    budget = Budget(measures={"heaviest": (heaviest, 0.7)})
    env = tiny_env(budget=budget)
    assert env.policy(env.keeper.min_counts).budget == {"heaviest": 0.7}
    with pytest.raises(ValueError, match=r"the budget for heaviest is 0\.001, but"):
        BudgetKeeper(GRAPHS["tiny"], Budget(measures={"heaviest": (heaviest, 0.001)}))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_scaled_numbers_meet_the_budget_and_are_none_greater(
    graph: ChannelGraph, budget: Budget, data: st.DataObject
) -> None:
    keeper = BudgetKeeper(graph, budget)
    counts = {g.name: data.draw(st.sampled_from(keeper.between(g))) for g in graph.groups}
    scaled = keeper.scaled(counts)
    assert keeper.fits(scaled)
    for group in graph.groups:
        assert scaled[group.name] in keeper.between(group)
        assert scaled[group.name] <= counts[group.name]
    # Numbers that meet the budget stay, and so do those that were made to meet it.
    assert scaled == counts or not keeper.fits(counts)
    assert keeper.scaled(scaled) == scaled


def test_scaled_numbers_are_in_proportion() -> None:
    graph = ChannelGraph(build_model("cifar_vgg16").eval(), torch.randn(2, 3, 32, 32))
    counts = {g.name: g.channels // (2 if i % 2 else 1) for i, g in enumerate(graph.groups)}
    scaled = BudgetKeeper(graph, Budget(flops=0.2), min_keep=0.0).scaled(counts)
    shares = [scaled[name] / count for name, count in counts.items()]
    # A channel up or down is up to 1/32 of a group.
    assert max(shares) - min(shares) <= 2 / 32
    assert max(shares) < 0.9


@pytest.mark.parametrize(("name", "count"), [("nowhere", 3), ("wide", 0), ("wide", 13)])
def test_what_no_group_can_keep_is_not_scaled(name: str, count: int) -> None:
    keeper = BudgetKeeper(GRAPHS["tiny"], Budget(flops=0.5))
    with pytest.raises(ValueError, match=name):
        keeper.scaled({name: count})
