from collections.abc import Mapping
from functools import cache
from math import isnan, nan

import pytest
import torch
from pruning import samples, tiny_env

from amc_env.rewards import RewardContext, rewards_by_name
from amc_env.trust import TriedPolicy, best_reward, measure, spread_policies, tried

ENV = tiny_env(selection=samples(40, seed=2))
NAMES = ("accuracy", "loss", "kl_to_original", "neg_error_log_flops", "random")


def refused(context: RewardContext) -> float:
    raise ValueError(f"{len(context.labels)} labels are no reward")


def infinite(context: RewardContext) -> float:
    return float("inf") * context.cost.flops


@cache
def tries() -> list[TriedPolicy]:
    policies = spread_policies(ENV.graph, ENV.keeper, 6, seed=0)
    rewards = {name: reward for name, reward in rewards_by_name().items() if name in NAMES}
    return [*tried(ENV, policies, {**rewards, "refused": refused, "infinite": infinite})]


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_is_what_an_episode_is_paid(name: str) -> None:
    env = tiny_env(reward=name)
    for policy in tries():
        assert policy.predicted[name] == env.evaluate(policy.counts).reward


def test_scores_are_those_of_the_realised_network_on_the_selection_split() -> None:
    split = ENV.data.judging
    for policy in tries():
        with torch.no_grad():
            logits = ENV.pruner.prune_sequentially(policy.counts)(split.inputs)
        right = (logits.argmax(1) == split.labels).double().mean()
        assert policy.accuracy == pytest.approx(float(right))
        cross_entropy = torch.nn.functional.cross_entropy(logits, split.labels)
        assert policy.loss == pytest.approx(float(cross_entropy), rel=1e-5)


def test_parameters_and_error_curves_predict_without_a_network() -> None:
    for policy in tries():
        cost, full = ENV.graph.cost(policy.counts), ENV.graph.cost()
        assert policy.predicted["parameters left"] == policy.params_ratio
        assert policy.params_ratio == cost.params / full.params
        assert policy.flops_ratio == cost.flops / full.flops
        errors = [
            sum(e[count - 1] ** 2 for e in ENV.pruner.plan.layer_errors(name).values())
            # No layer that reads the stem alone can be solved for, but those behind it can.
            for name, count in policy.counts.items()
        ]
        assert policy.predicted["summed error curves"] == pytest.approx(-float(sum(errors)))


def test_a_reward_that_refuses_a_network_has_no_correlation_and_stands_last() -> None:
    assert all(isnan(policy.predicted["refused"]) for policy in tries())
    assert all(isnan(policy.predicted["infinite"]) for policy in tries())
    found = measure(tries())
    missing = [isnan(trust.loss.correlation) for trust in found]
    assert missing == sorted(missing)
    by_name = {trust.name: trust for trust in found}
    for name in ("refused", "infinite"):
        assert isnan(by_name[name].loss.correlation)
        assert isnan(by_name[name].accuracy.low)
    assert not isnan(by_name["kl_to_original"].loss.correlation)


def test_without_a_selection_split_there_is_nothing_to_score_on() -> None:
    with pytest.raises(ValueError, match="the data has none; give PruningData a selection split"):
        next(tried(tiny_env(), [{}], {}))


def scored(score: float, predicted: Mapping[str, float]) -> TriedPolicy:
    """A policy whose network is the better the greater the score, but classifies fewer right."""
    return TriedPolicy(
        counts={},
        flops_ratio=0.5,
        params_ratio=0.5,
        predicted=predicted,
        loss=-score,
        accuracy=1 - score / 10,
    )


def test_correlations_are_of_the_scores_and_the_best_by_the_loss_comes_first() -> None:
    found = measure(
        [
            scored(x, {"opposite": -x, "same": x**3, "parameters left": x, "random": x + 0.5})
            for x in range(6)
        ]
    )
    by_name = {trust.name: trust for trust in found}
    assert by_name["same"].loss.correlation == pytest.approx(1)
    assert by_name["opposite"].loss.correlation == pytest.approx(-1)
    assert by_name["same"].accuracy.correlation == pytest.approx(-1)
    assert found[-1].name == "opposite"
    assert not by_name["parameters left"].is_reward
    assert best_reward(found).name == "same"


def test_a_random_reward_and_a_prediction_that_is_none_are_never_chosen() -> None:
    rows = [scored(x, {"random": x, "parameters left": x, "loss": -x}) for x in range(4)]
    assert best_reward(measure(rows)).name == "loss"


@pytest.mark.parametrize(
    "rows",
    [
        [scored(0.5, {"loss": x}) for x in range(4)],
        [scored(x, {"loss": nan, "random": x}) for x in range(4)],
    ],
)
def test_where_no_reward_ranks_anything_none_is_chosen(rows: list[TriedPolicy]) -> None:
    with pytest.raises(ValueError, match="no reward ranks the policies that were tried"):
        best_reward(measure(rows))
