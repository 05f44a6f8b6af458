"""Mixtures of the policy of the error curves and of the largest network."""

from typing import Any

import numpy as np
import pytest
import torch
from pruning import tiny_env

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.agents import make_agent
from amc_env.agents.blend import blends, largest
from amc_env.agents.error_curves import allocate
from amc_env.agents.milp import Programme
from amc_env.models import build_model


def env_of(model: str, *, flops: float) -> ChannelPruningEnv:
    size = (1, 8, 8) if model == "digits_cnn" else (3, 32, 32)
    inputs = torch.rand(8, *size, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=inputs, labels=torch.arange(8))
    return ChannelPruningEnv(
        model=build_model(model, seed=0),
        data=PruningData(calibration=split.take(torch.arange(4)), validation=split),
        budget=Budget(flops=flops),
        settings=EnvSettings(precision="float32"),
    )


# At a tight budget the greedy cuts of a network whose groups interact leave less.
@pytest.mark.parametrize(("flops", "share"), [(0.3, 0.75), (0.5, 0.95), (0.8, 0.95)])
@pytest.mark.parametrize("model", ["digits_cnn", "cifar_resnet20"])
def test_the_largest_network_is_nearly_that_of_the_integer_programme(
    model: str, flops: float, share: float
) -> None:
    env = env_of(model, flops=flops)
    most, counts = Programme(env).largest(), largest(env)
    assert env.keeper.fits(counts)
    assert share * env.graph.cost(most).params <= env.graph.cost(counts).params


def test_a_share_lies_between_the_two_ends_and_spends_the_budget() -> None:
    env = env_of("digits_cnn", flops=0.5)
    first, second = allocate(env), largest(env)
    assert first != second
    ends = blends(env, (0.0, 1.0))
    assert ends == [env.keeper.spent(first), env.keeper.spent(second)]
    (middle,) = blends(env, (0.5,))
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    # All groups are multiplied by one factor and rounded to whole channels.
    factor = sum(middle.values()) / sum(mean.values())
    assert all(abs(middle[name] - factor * kept) <= 1 for name, kept in mean.items())
    assert env.graph.cost(middle).flops == pytest.approx(0.5 * env.graph.cost().flops, rel=0.05)
    assert env.keeper.fits(middle)


def test_groups_that_keep_multiples_are_mixed_into_multiples() -> None:
    settings = EnvSettings(round_to=4, precision="float32")
    env = tiny_env(budget=Budget(flops=0.6), settings=settings)
    for counts in blends(env):
        assert env.keeper.fits(counts)
        assert all(counts[g.name] in env.keeper.between(g) for g in env.graph.groups)


def test_no_policy_is_played_twice() -> None:
    env = tiny_env(budget=Budget(flops=0.5))
    shares = tuple(np.linspace(0.0, 1.0, 40).tolist())
    found = make_agent("blend", {"shares": shares}).search(env, episodes=100, seed=0)
    played = [tuple(episode.counts.values()) for episode in found.episodes]
    assert 1 < len(played) == len(set(played)) < 40


def test_there_are_no_more_episodes_than_are_asked_for() -> None:
    env = tiny_env(budget=Budget(flops=0.5))
    assert len(make_agent("blend").search(env, episodes=2, seed=0).episodes) == 2


@pytest.mark.parametrize("name", ["ddpg", "evopress"])
def test_searches_begin_with_the_blends(name: str) -> None:
    env = tiny_env(budget=Budget(flops=0.5))
    expected = blends(env)
    found = make_agent(name).search(env, episodes=len(expected) + 1, seed=0)
    played = [episode.counts for episode in found.episodes]
    if name == "ddpg":
        assert played[:-1] == expected
    # What is left of the budget is spent channel by channel in an evolution.
    for counts, blend in zip(played, expected, strict=False):
        assert all(counts[group] >= kept for group, kept in blend.items())


@pytest.mark.parametrize("shares", [[], [1.5], "0.5", [True]])
def test_shares_that_are_none_are_refused(shares: Any) -> None:
    with pytest.raises(ValueError, match=r"agent 'blend': shares is .*; it must be shares from 0"):
        make_agent("blend", {"shares": shares})
