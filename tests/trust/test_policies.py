from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from amc_env import Budget, ChannelGraph
from amc_env.env.budget import BudgetKeeper
from amc_env.models import build_model
from amc_env.trust import spread_policies


@cache
def graph() -> ChannelGraph:
    return ChannelGraph(build_model("digits_cnn", seed=0).eval(), torch.zeros(2, 1, 8, 8))


def keeper(budget: Budget | None, *, max_keep: float = 1.0) -> BudgetKeeper:
    return BudgetKeeper(graph(), budget, max_keep=max_keep)


BUDGETS = [Budget(flops=0.5), Budget(flops=0.2), Budget(params=0.4), Budget(flops=0.6, params=0.3)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_policy_uses_up_the_budget(budget: Budget) -> None:
    kept = keeper(budget, max_keep=0.9)
    for counts in spread_policies(graph(), kept, 12, seed=0):
        assert kept.fits(counts)
        for group in graph().groups:
            allowed = kept.between(group)
            assert counts[group.name] in allowed
            more = [count for count in allowed if count > counts[group.name]]
            assert not more or not kept.fits({**counts, group.name: more[0]})


def test_policies_are_different_and_spread_over_the_parameters_left() -> None:
    policies = spread_policies(graph(), keeper(Budget(flops=0.5)), 12, seed=0)
    assert len({tuple(counts.values()) for counts in policies}) == 12
    left = np.array([graph().cost(counts).params for counts in policies]) / graph().cost().params
    assert left.max() - left.min() > 0.25
    gaps = np.diff(np.sort(left))
    assert gaps.max() < 3 * gaps.mean()


def test_without_a_budget_policies_differ_in_how_much_they_keep() -> None:
    policies = spread_policies(graph(), keeper(None), 12, seed=0)
    left = [graph().cost(counts).flops / graph().cost().flops for counts in policies]
    assert min(left) < 0.3
    assert max(left) > 0.7


def test_the_seed_decides() -> None:
    kept = keeper(Budget(flops=0.5))
    first, again, other = (spread_policies(graph(), kept, 8, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_network_without_enough_policies_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    small = ChannelGraph(model, torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"only 1 different policies .* but 8 are wanted"):
        spread_policies(small, BudgetKeeper(small, Budget(flops=0.5)), 8, seed=0)
