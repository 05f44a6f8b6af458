"""The searchers that refine a division of the budget by rewards."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from torch import nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData
from amc_env.agents import SearchResult, make_agent
from amc_env.agents.error_curves import allocate
from amc_env.agents.searchers import uniform_counts
from amc_env.data.datasets import digits
from amc_env.models import build_model
from amc_env.training import TrainingSettings, fit_

VALIDATION = 200


@cache
def trained() -> tuple[nn.Module, PruningData]:
    """The small network of the quickstart after three epochs on the digits, and its samples."""
    train = digits().train
    model = build_model("digits_cnn", seed=0)
    fit_(model, train, TrainingSettings(epochs=3))
    return model, PruningData.of_training(train, calibration=100, validation=VALIDATION)


def env_of(reward: Any = "loss") -> ChannelPruningEnv:
    model, data = trained()
    settings = EnvSettings(evaluation_batch=20, precision="float32")
    return ChannelPruningEnv(
        model=model, data=data, reward=reward, budget=Budget(flops=0.3), settings=settings
    )


def search(
    name: str, options: dict[str, Any], *, reward: Any = "loss", episodes: int = 20
) -> SearchResult:
    return make_agent(name, options).search(env_of(reward), episodes=episodes, seed=0)


def of_the_first(context: Any) -> float:
    """A reward that says how many channels the first group keeps."""
    return float(next(iter(context.counts.values())))


def most_of_the_first() -> int:
    env = env_of()
    return env.keeper.allowed(env.graph.groups[0], {})[-1]


# SPDY


@pytest.mark.slow
def test_spdy_begins_with_the_curves_as_they_are_and_ends_no_worse() -> None:
    found = search("spdy", {})
    again = search("spdy", {"shots": 0.0, "patience": 1})
    assert found.episodes[0].counts == again.episodes[0].counts
    assert found.best.reward >= found.episodes[0].reward
    assert len({tuple(e.counts.values()) for e in found.episodes}) > 1


def test_spdy_walks_towards_the_reward() -> None:
    found = search("spdy", {}, reward=of_the_first)
    assert found.episodes[0].reward < found.best.reward <= most_of_the_first()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shots": 1.5}, "shots is 1.5; it must be a number in"),
        ({"neighbourhood": 0}, "neighbourhood is 0; it must be a number in"),
        ({"patience": 0}, "patience is 0; it must be a whole number, at least 1"),
    ],
)
def test_bad_options_of_spdy_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_agent("spdy", options)


# EvoPress


def test_the_first_parent_is_the_one_asked_for_and_filled() -> None:
    curves, uniform = (
        search("evopress", {"start": start}, episodes=1).best.counts
        for start in ("error_curves", "uniform")
    )
    env = env_of()
    for counts, start in ((curves, allocate(env)), (uniform, uniform_counts(env))):
        assert all(counts[name] >= start[name] for name in counts)
        assert env.keeper.fits(counts)


def test_screening_counts_as_the_part_that_it_is() -> None:
    options = {"start": "error_curves", "stages": [[0.1, 5], [0.3, 2]]}
    found = search("evopress", options, episodes=12)
    # A generation: 5 networks on 20 samples, 2 on 40 more, 1 on 140 more, of 200 samples.
    price = (5 * 20 + 2 * 40 + 140) / 200
    generations = int(11 / price)
    rest = int(11 - generations * price)
    assert len(found.episodes) == 1 + generations + rest
    assert found.evaluations == pytest.approx(1 + generations * price + rest)
    assert found.evaluations <= 12


def test_without_stages_every_generation_is_one_episode() -> None:
    found = search("evopress", {"stages": []}, episodes=9)
    assert len(found.episodes) == found.evaluations == 9


def test_stages_that_need_all_samples_are_left_out() -> None:
    found = search("evopress", {"stages": [[0.3, 3], [0.95, 2]]}, episodes=9)
    plain = search("evopress", {"stages": [[0.3, 3]]}, episodes=9)
    assert [e.counts for e in found.episodes] == [e.counts for e in plain.episodes]


def test_every_child_is_new_and_fills_the_budget() -> None:
    found = search("evopress", {"stages": []}, episodes=15)
    env = env_of()
    counts = [tuple(e.counts.values()) for e in found.episodes]
    assert len(set(counts)) == 15
    for episode in found.episodes:
        for group in env.graph.groups:
            more = [c for c in env.keeper.between(group) if c > episode.counts[group.name]]
            assert not more or not env.keeper.fits({**episode.counts, group.name: more[0]})


def test_evolution_walks_towards_the_reward() -> None:
    found = search("evopress", {"stages": []}, reward=of_the_first, episodes=40)
    assert found.episodes[0].reward < found.best.reward
    assert found.best.reward >= 0.9 * most_of_the_first()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": "best"}, "start is 'best'; it must be 'blend', 'error_curves' or 'uniform'"),
        ({"step": 0}, "step is 0; it must be a number in"),
        ({"race": "yes"}, "race is 'yes'; it must be true or false"),
        ({"stages": [[0.1, 3], [0.05, 2]]}, "stages is .*; it must be pairs of a rising share"),
        ({"stages": [[0.1, 3], [0.3, 3]]}, "stages is .*; it must be pairs of a rising share"),
        ({"stages": [[0.1, 3, 4]]}, "stages is .*; it must be pairs of a rising share"),
        ({"stages": 3}, "stages is 3; it must be pairs of a rising share"),
    ],
)
def test_bad_options_of_evopress_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_agent("evopress", options)


# MILP


@pytest.mark.slow
def test_the_programme_plays_every_policy_that_an_exponent_leads_to() -> None:
    options = {"exponents": [2.0, 0.25, 2.0]}
    found = search("milp", options)
    assert [e.counts for e in found.episodes[1:]] != [found.episodes[0].counts]
    assert len(found.episodes) == 2
    assert len(search("milp", options, episodes=1).episodes) == 1


@pytest.mark.parametrize("exponents", [[], [0.0], [-1.0], ["a"], 2.0, [float("inf")]])
def test_bad_exponents_are_refused(exponents: Any) -> None:
    with pytest.raises(ValueError, match=r"exponents is .*; it must be positive numbers"):
        make_agent("milp", {"exponents": exponents})


# Races


@pytest.mark.parametrize("reward", ["accuracy", "loss", "kl_to_original"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random", {}),
        pytest.param("evopress", {}, marks=pytest.mark.slow),
        pytest.param("evopress", {"stages": []}, marks=pytest.mark.slow),
    ],
)
def test_a_raced_search_finds_the_same_policy_with_fewer_samples(
    name: str, options: dict[str, Any], reward: str
) -> None:
    plain = search(name, options, reward=reward)
    raced = search(name, {**options, "race": True}, reward=reward)
    assert raced.policy == plain.policy
    assert raced.best.counts == plain.best.counts
    assert raced.best.reward == plain.best.reward
    assert [e.counts for e in raced.episodes] == [e.counts for e in plain.episodes]
    stopped = [e for e in raced.episodes if e.samples < VALIDATION]
    assert raced.evaluations <= plain.evaluations
    # Offspring that passed the stages may lose so narrowly that nothing is saved.
    assert stopped or name == "evopress"
    assert all(e.reward < raced.best.reward for e in stopped)


def test_a_race_of_random_policies_saves_a_quarter_of_the_samples() -> None:
    raced = search("random", {"race": True}, reward="accuracy")
    assert len(raced.episodes) == 20
    assert raced.evaluations == pytest.approx(15, abs=1.5)


def test_stopped_episodes_are_no_finalists() -> None:
    raced = search("random", {"race": True})
    whole = sum(e.samples == VALIDATION for e in raced.episodes)
    assert 0 < whole < 20
    assert len(raced._best(20)) <= whole
    assert all(e.samples == VALIDATION for e in raced._best(20))


@pytest.mark.parametrize("name", ["random", "evopress"])
def test_a_reward_that_cannot_be_raced_is_said_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be raced"):
        search(name, {"race": True}, reward="random", episodes=8)
    assert np.isfinite(search(name, {}, reward="random", episodes=3).best.reward)
