import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning import tiny

from amc_env import Budget, ChannelGraph
from amc_env.env.budget import BudgetKeeper
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


@pytest.mark.parametrize("ratio", [0, 1, 2, -0.5, True, float("nan")])
def test_a_budget_that_is_no_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(
        ValueError, match=r"the budget for flops is .*; give a ratio of the original"
    ):
        Budget(flops=ratio)


def test_a_budget_without_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="the budget has no limit"):
        Budget()


def test_an_unreachable_budget_names_the_smallest_that_is() -> None:
    graph = GRAPHS["tiny"]
    with pytest.raises(
        ValueError, match=r"is 0.01, but with every group at its least (0\.\d+)"
    ) as e:
        BudgetKeeper(graph, Budget(flops=0.01))
    reachable = float(str(e.value).split("least ")[1].split(" ")[0])
    BudgetKeeper(graph, Budget(flops=reachable + 1e-3))
    with pytest.raises(ValueError, match="with every group"):
        BudgetKeeper(graph, Budget(flops=reachable - 1e-3))
