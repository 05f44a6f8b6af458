"""Evaluations of a part of the validation samples, and evaluations that stop early."""

import gc

import numpy as np
import pytest
import torch
from pruning import tiny, tiny_data, tiny_env

from amc_env import ChannelPruningEnv, EnvSettings, Split
from amc_env.batches import Batch
from amc_env.env import Outcome
from amc_env.evaluation import Evaluator
from amc_env.rewards import RewardContext, make_reward

COUNTS = {"stem": 5, "wide": 7, "last": 6}
# 40 validation samples in batches of 8.
SETTINGS = EnvSettings(evaluation_batch=8, precision="float32")
RACED = ("accuracy", "loss", "kl_to_original", "neg_error_log_flops")


def env_of(reward: object = "loss") -> ChannelPruningEnv:
    return tiny_env(reward=reward, settings=SETTINGS)


def first(samples: int, reward: object) -> Outcome:
    """The outcome in an environment that has no other validation samples."""
    data = tiny_data()
    split = data.validation
    part = Split(inputs=split.inputs[:samples], labels=split.labels[:samples])
    env = ChannelPruningEnv(
        model=tiny(),
        data=type(data)(calibration=data.calibration, validation=part),
        reward=reward,
        settings=SETTINGS,
    )
    return env.evaluate(COUNTS)


@pytest.mark.parametrize("reward", RACED)
@pytest.mark.parametrize("samples", [8, 24, 40])
def test_a_part_is_the_outcome_on_the_first_samples(reward: str, samples: int) -> None:
    assert env_of(reward).trial(COUNTS).outcome(samples) == first(samples, reward)


def test_parts_are_rounded_up_to_whole_batches() -> None:
    trial = env_of().trial(COUNTS)
    assert trial.outcome(9).samples == 16
    assert trial.outcome(1000).samples == 40
    with pytest.raises(ValueError, match="samples is 0; give at least 1"):
        trial.outcome(0)


def test_growing_parts_end_at_the_episode_to_the_last_bit() -> None:
    env = env_of()
    trial = env.trial(COUNTS)
    parts = [trial.outcome(n).reward for n in (8, 16, 8, 40)]
    assert parts[0] == parts[2] != parts[1]
    assert trial.outcome() == env_of().evaluate(COUNTS)


def test_no_sample_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    outputs = Evaluator.outputs
    env = env_of()

    def spy(self: Evaluator, model: torch.nn.Module) -> Batch:
        run.append(len(self.split))
        return outputs(self, model)

    monkeypatch.setattr(Evaluator, "outputs", spy)
    trial = env.trial(COUNTS)
    trial.outcome(16)
    trial.outcome(8)
    assert trial.samples == 16
    assert env.evaluate(COUNTS).samples == 40
    assert env.evaluate(COUNTS) == trial.outcome()
    assert run == [16, 24]


def test_an_episode_goes_on_with_a_trial_that_is_held() -> None:
    env = env_of()
    trial = env.trial(COUNTS)
    trial.outcome(8)
    repaired = trial.seconds["repair"]
    env.reset()
    for group in env.graph.groups:
        action = 1.0 - (COUNTS[group.name] - 0.5) / group.channels
        *_, info = env.step(np.array([action], np.float32))
    assert info["counts"] == COUNTS
    assert info["samples"] == trial.samples == 40
    assert info["seconds"]["repair"] == repaired > 0
    # Nobody holds the next one, so it is another trial, but what is known needs no network.
    del trial
    gc.collect()
    again = env.trial(COUNTS)
    assert again.outcome().reward == env.evaluate(COUNTS).reward
    assert again.samples == 0


def test_a_trial_of_channels_that_do_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no group 'nowhere'"):
        env_of().trial({"nowhere": 3})
    with pytest.raises(ValueError, match="cannot keep 99"):
        env_of().trial({"stem": 99})


def test_a_fresh_random_reward_is_another_one_for_every_episode_of_a_policy() -> None:
    def rewards(*, seed: int | None) -> list[float]:
        env = env_of(make_reward("random", {"fresh": True}))
        paid = []
        for number in range(4):
            env.reset(seed=None if number else seed)
            for _ in env.graph.groups:
                _, reward, *_ = env.step(np.array([0.5], np.float32))
            paid.append(float(reward))
        return paid

    first = rewards(seed=1)
    assert len(set(first)) == 4
    assert all(0 <= reward < 1 for reward in first)
    assert rewards(seed=1) == first != rewards(seed=2)
    # A search that never seeds the environment is repeatable too.
    assert rewards(seed=None) == rewards(seed=None)


def test_the_outcomes_of_a_repeatable_reward_are_remembered() -> None:
    drawn: list[float] = []

    def counted(context: RewardContext) -> float:
        drawn.append(context.draw)
        return 0.0

    env = env_of(counted)
    assert env.evaluate(COUNTS) == env.evaluate(COUNTS)
    assert len(drawn) == 1
    counted.is_repeatable = False  # type: ignore[attr-defined]
    env.use_reward_(counted)
    assert env.evaluate(COUNTS) == env.evaluate(COUNTS)
    assert len(set(drawn)) == 3


# Races


@pytest.mark.parametrize("reward", [*RACED, {"accuracy": 1.0, "kl_to_original": 0.5}])
def test_a_race_stops_only_below_the_floor(reward: object) -> None:
    exact = env_of(reward).evaluate(COUNTS).reward
    for above in (0.5, 1e-3, 0.0, -1e-3):
        raced = env_of(reward).trial(COUNTS).race(exact + above)
        if raced.samples < 40:
            # What is told of a stopped network is what it could still have reached.
            assert exact <= raced.reward + 1e-6
            assert raced.reward < exact + above
        else:
            assert raced == env_of(reward).evaluate(COUNTS)
        assert raced.samples == 40 or above > 0


@pytest.mark.parametrize("reward", RACED)
def test_a_race_that_is_lost_early_saves_samples(reward: str) -> None:
    # The floor is the greatest value that a reward can have.
    perfect = {"accuracy": 1.0, "loss": 0.0, "kl_to_original": 0.0, "neg_error_log_flops": 0.0}
    assert env_of(reward).trial(COUNTS).race(perfect[reward]).samples == 8


def test_a_stopped_race_is_not_remembered_as_the_outcome() -> None:
    env = env_of("loss")
    assert env.trial(COUNTS).race(0.0).samples == 8
    assert env.evaluate(COUNTS) == env_of("loss").evaluate(COUNTS)
    # What is known already is not run again, whatever the floor.
    assert env.trial(COUNTS).race(0.0) == env.evaluate(COUNTS)


@pytest.mark.parametrize(
    "reward", ["random", "spatial_entropy", {"accuracy": 1.0, "loss": -0.5}, lambda _: 1.0]
)
def test_rewards_without_a_bound_are_not_raced(reward: object) -> None:
    env = env_of(reward)
    env.reset(options={})
    with pytest.raises(ValueError, match=r"cannot be raced.*choose accuracy, loss"):
        env.reset(options={"floor": 0.5})


def test_an_episode_with_a_floor_ends_early_and_the_next_one_does_not() -> None:
    env = env_of("accuracy")
    samples = []
    for options in ({"floor": 1.0}, None):
        env.reset(options=options)
        for _ in env.graph.groups:
            *_, info = env.step(np.array([0.5], np.float32))
        samples.append(info["samples"])
    assert samples == [8, 40]
