"""DDPG by AMC's rules: what it stores, how it explores, when it learns, and that it does."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from scipy.stats import kstest, truncnorm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from amc_env.agents.amc_ddpg import AMCDDPG, RunningNormaliser, learn_episodes
from amc_env.agents.amc_settings import AMCSettings
from amc_env.agents.episode_buffer import EpisodeBuffer
from amc_env.agents.truncated_normal import (
    MARGIN,
    sample_truncated_normal,
    truncated_normal_quantile,
)

STEPS = 5
TARGETS = (0.2, 0.7, 0.4, 0.85, 0.55)
CEILING = 0.8
QUICK = AMCSettings(hidden_sizes=(16, 16), warmup_episodes=4, replay_episodes=3, batch_size=8)


class Targets(gym.Env[np.ndarray, np.ndarray]):
    """Five actions, each with a target, paid for at the end: minus the squared distances.

    The observation is (how far, last executed action, 0.25); actions above 0.8 are executed as 0.8.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, *, tells: bool = True) -> None:
        self.tells = tells
        self.asked: list[float] = []
        self.done: list[float] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.done = []
        return self._observation(), {}

    def step(self, action):
        self.asked.append(float(action[0]))
        self.done.append(min(float(action[0]), CEILING))
        is_over = len(self.done) == STEPS
        pay = -float(np.square(np.subtract(self.done, TARGETS)).sum()) if is_over else 0.0
        info = {"executed": self.done[-1]} if self.tells else {}
        return self._observation(), pay, is_over, False, info

    def _observation(self):
        last = self.done[-1] if self.done else 0.0
        return np.array([len(self.done) / STEPS, last, 0.25], dtype=np.float32)


class Record(BaseCallback):
    """What the environment was asked for and what it paid."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[float] = []
        self.executed: list[float] = []
        self.final_rewards: list[float] = []

    def _on_step(self) -> bool:
        self.actions.append(self.locals["actions"].item())
        self.executed.append(self.locals["infos"][0].get("executed"))
        if self.locals["dones"][0]:
            self.final_rewards.append(self.locals["rewards"].item())
        return True


def trained(episodes: int, *, settings: AMCSettings = QUICK, seed: int = 0, tells: bool = True):
    """A model after some episodes, and what happened in them."""
    model = AMCDDPG(Targets(tells=tells), settings=settings, seed=seed, device="cpu")
    record = Record()
    learn_episodes(model, episodes=episodes, callback=record)
    return model, record


def parameters(model: AMCDDPG) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.policy.state_dict().values()])


def moments(model: AMCDDPG) -> torch.Tensor:
    """Adam's averages of the actor's gradients; empty before the first gradient step."""
    state = model.actor.optimizer.state_dict()["state"]
    return torch.cat([torch.zeros(0), *(entry["exp_avg"].flatten() for entry in state.values())])


# What is stored


def test_an_actor_that_imitates_does_what_it_was_shown_and_explores_around_it() -> None:
    env = Targets()
    settings = replace(QUICK, warmup_around_actor=True, sigma=0.02)
    model = AMCDDPG(env, settings=settings, seed=0)
    shown = [env.reset()[0], *(env.step(np.array([target]))[0] for target in TARGETS[:-1])]
    model.imitate_(np.stack(shown), np.array(TARGETS, dtype=np.float32))
    done, _ = model.predict(np.stack(shown), deterministic=True)
    assert done[:, 0] == pytest.approx(TARGETS, abs=0.02)
    for own, target in zip(
        model.actor.state_dict().values(), model.actor_target.state_dict().values(), strict=True
    ):
        assert torch.equal(own, target)
    env.asked.clear()
    learn_episodes(model, episodes=3)
    assert np.abs(np.reshape(env.asked, (3, STEPS)) - TARGETS).max() < 0.2
    assert len(set(env.asked)) == 3 * STEPS


def test_the_executed_action_is_stored_scaled():
    model, record = trained(3)
    assert max(record.actions) > CEILING
    expected = 2 * np.array(record.executed, dtype=np.float32) - 1
    np.testing.assert_allclose(model.episodes.actions.ravel(), expected, atol=1e-6)
    assert model.episodes.actions.max() == pytest.approx(2 * CEILING - 1)


def test_the_asked_action_is_stored_where_none_is_reported():
    model, record = trained(3, tells=False)
    expected = 2 * np.array(record.actions, dtype=np.float32) - 1
    np.testing.assert_allclose(model.episodes.actions.ravel(), expected, atol=1e-6)


def test_the_final_reward_is_credited_to_every_step_and_only_the_last_is_done():
    model, record = trained(3)
    rewards = model.episodes.rewards.reshape(3, STEPS)
    np.testing.assert_allclose(rewards, np.repeat(record.final_rewards, STEPS).reshape(3, STEPS))
    assert model.episodes.dones.reshape(3, STEPS).tolist() == [[0, 0, 0, 0, 1]] * 3


def test_capacity_is_in_episodes_and_the_oldest_leave():
    model, record = trained(5)
    assert model.episodes.size() == 3 * STEPS
    held = model.episodes.rewards[::STEPS, 0]
    np.testing.assert_allclose(held, record.final_rewards[-3:])


def test_the_last_next_observation_is_the_terminal_one():
    model, _ = trained(2)
    observations = model.episodes.observations.reshape(2, STEPS, 3)
    following = model.episodes.next_observations.reshape(2, STEPS, 3)
    assert observations[:, :, 0].tolist() == [pytest.approx([0, 0.2, 0.4, 0.6, 0.8])] * 2
    np.testing.assert_array_equal(following[:, :-1], observations[:, 1:])
    assert following[:, -1, 0].tolist() == [1.0, 1.0]


def test_an_executed_action_outside_the_space_is_refused():
    with pytest.raises(ValueError, match=r"executed.*1\.5; it must be in \[0, 1\]"):
        buffer_with([0.0], executed=1.5)


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"rewards is .*nan.*; every number must be finite"):
        buffer_with([float("nan")])


def test_a_buffer_of_the_wrong_kind_is_refused():
    model, _ = trained(1)
    model.replay_buffer = None
    with pytest.raises(TypeError, match="NoneType; AMCDDPG needs an EpisodeBuffer"):
        _ = model.episodes


# The baseline


def buffer_with(
    final_rewards: list[float],
    *,
    executed: float = 0.5,
    decay: float = 0.75,
    scale_rewards: bool = False,
    sparsities: tuple[float, ...] | None = None,
) -> EpisodeBuffer:
    """Episodes of two steps each; ``sparsities`` are told by the last."""
    buffer = EpisodeBuffer(
        8,
        Targets.observation_space,
        Targets.action_space,
        "cpu",
        baseline_decay=decay,
        scale_rewards=scale_rewards,
    )
    buffer.seed_(0)
    for pay in final_rewards:
        for reward, done in ((0.0, False), (pay, True)):
            zeros = np.zeros((1, 3), np.float32)
            infos = [{"executed": executed}]
            if done and sparsities is not None:
                infos[0] |= {"sparsities": sparsities}
            ends = np.array([done])
            buffer.add(zeros, zeros, np.zeros((1, 1)), np.array([reward]), ends, infos)
    return buffer


def test_a_demonstration_counts_as_an_episode_that_was_played() -> None:
    seen, executed = np.random.default_rng(0).random((2, 3), np.float32), np.array([0.25, 1.0])
    buffer = buffer_with([-3.0])
    buffer.demonstrate_(seen, executed, reward=2.0)
    assert buffer.size() == 4
    steps = buffer.episodes[-1]
    assert steps.actions.flatten().tolist() == [-0.5, 1.0]
    assert steps.rewards.flatten().tolist() == [2.0, 2.0]
    assert steps.dones.flatten().tolist() == [0.0, 1.0]
    assert np.array_equal(steps.next_observations[0], steps.observations[1])
    best, wanted = buffer.best(1)
    assert np.array_equal(best.numpy(), seen)
    assert wanted.flatten().tolist() == [-0.5, 1.0]
    with pytest.raises(ValueError, match=r"the executed action is 1\.5; it must be in"):
        buffer.demonstrate_(seen, np.array([0.25, 1.5]), reward=2.0)


def test_the_first_baseline_is_the_mean_of_the_batch():
    rewards = buffer_with([1.0, 3.0]).sample(32).rewards
    assert rewards.mean().item() == pytest.approx(0, abs=1e-6)
    assert set((rewards - rewards.min()).ravel().tolist()) == {0.0, 2.0}


def test_the_baseline_follows_by_its_decay():
    buffer = buffer_with([2.0])
    buffer.baseline = 10.0
    rewards = buffer.sample(4).rewards
    # 0.75 * 10 + 0.25 * 2
    assert buffer.baseline == 8.0
    assert rewards.ravel().tolist() == [-6.0] * 4


def test_the_sparsities_of_a_whole_episode_replace_those_of_its_steps():
    buffer = buffer_with([1.0], sparsities=(0.0, 0.75))
    assert buffer.actions.flatten().tolist() == [-1.0, 0.5]


def test_scaled_rewards_have_the_deviation_of_the_episodes_held():
    plain = buffer_with([1.0, 3.0, 8.0]).sample(32).rewards
    scaled = buffer_with([1.0, 3.0, 8.0], scale_rewards=True).sample(32).rewards
    torch.testing.assert_close(scaled, plain / float(np.std([1.0, 3.0, 8.0])))


def test_equal_rewards_are_not_scaled():
    rewards = buffer_with([2.0, 2.0], scale_rewards=True).sample(32).rewards
    assert rewards.tolist() == [[0.0]] * 32


def test_sampling_leaves_the_stored_rewards_alone():
    buffer = buffer_with([2.0])
    buffer.sample(4)
    assert buffer.rewards.ravel().tolist() == [2.0, 2.0]


def test_an_empty_buffer_cannot_be_sampled():
    with pytest.raises(ValueError, match="no finished episode"):
        buffer_with([]).sample(4)


def test_an_unfinished_episode_is_not_sampled():
    buffer = buffer_with([2.0])
    zeros = np.zeros((1, 3), np.float32)
    buffer.add(zeros, zeros, np.zeros((1, 1)), np.zeros(1), np.array([False]), [{}])
    assert buffer.size() == 2
    buffer.drop_unfinished_()
    assert buffer.unfinished == []


# Exploration


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_quantiles_agree_with_scipy(mean: float, sigma: float):
    for probability in (0.001, 0.2, 0.5, 0.9, 0.999):
        expected = truncnorm.ppf(
            probability, -mean / sigma, (1 - mean) / sigma, loc=mean, scale=sigma
        )
        value = truncated_normal_quantile(probability, mean=mean, sigma=sigma)
        assert value == pytest.approx(expected, abs=1e-6)


def test_draws_follow_the_truncated_normal():
    rng = np.random.default_rng(0)
    draws = [sample_truncated_normal(rng, mean=0.9, sigma=0.5) for _ in range(2000)]
    law = truncnorm(-0.9 / 0.5, 0.1 / 0.5, loc=0.9, scale=0.5)
    assert kstest(draws, law.cdf).pvalue > 0.01


@pytest.mark.parametrize("sigma", [1e-16, 1e-9, 0.5, 1e6])
@pytest.mark.parametrize("mean", [0.0, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_no_value_reaches_a_bound_even_in_float32(probability: float, mean: float, sigma: float):
    value = truncated_normal_quantile(probability, mean=mean, sigma=sigma)
    assert MARGIN <= value <= 1 - MARGIN
    assert 0 < np.float32(value) < 1
    assert -1 < np.float32(2) * np.float32(value) - np.float32(1) < 1


@pytest.mark.parametrize(
    "arguments",
    [{"mean": 1.1, "sigma": 1}, {"mean": 0.5, "sigma": 0}, {"mean": np.nan, "sigma": 1}],
)
def test_impossible_distributions_are_refused(arguments: dict[str, float]):
    with pytest.raises(ValueError, match="it must be"):
        sample_truncated_normal(np.random.default_rng(0), **arguments)


def test_sigma_decays_from_the_first_episode_after_the_warm_up():
    settings = AMCSettings()
    assert [settings.sigma_of_episode(episode) for episode in (0, 99, 100)] == [0.5] * 3
    assert settings.sigma_of_episode(102) == pytest.approx(0.5 * 0.95**2)
    assert settings.sigma_of_episode(10**6) > 0


def test_exploration_narrows_around_the_actor_and_never_reaches_a_bound():
    settings = AMCSettings(warmup_episodes=2, sigma_decay=0.8, hidden_sizes=(16,), batch_size=8)
    model, record = trained(42, settings=settings)
    after = np.array(record.actions).reshape(-1, STEPS)[2:]
    assert ((after > 0) & (after < 1)).all()
    assert after[:5].std(axis=0).min() > 10 * after[-5:].std(axis=0).max()
    chosen = model.predict(np.array([0.0, 0.0, 0.25], dtype=np.float32))[0].item()
    assert after[-1, 0] == pytest.approx(chosen, abs=0.02)


def test_the_first_episode_after_the_warm_up_follows_the_actor():
    model, _ = trained(2, settings=AMCSettings(hidden_sizes=(16,), warmup_episodes=2, sigma=1e-6))
    chosen = model.predict(np.array([0.0, 0.0, 0.25], dtype=np.float32))[0].item()
    record = Record()
    learn_episodes(model, episodes=1, callback=record)
    assert record.actions[0] == pytest.approx(chosen, abs=1e-5)


def test_only_a_share_of_the_steps_explores():
    settings = replace(
        QUICK,
        warmup_around_actor=True,
        explored_share=0.25,
        sigma=0.3,
        replay_episodes=4,
        normalise_observations=False,
    )
    model = AMCDDPG(Targets(), settings=settings, seed=0, device="cpu")
    record = Record()
    learn_episodes(model, episodes=4, callback=record)
    # Without gradient steps, the actor's own action depends on the last one alone.
    seen = model.episodes.observations[:, 0]
    own = model.predict(seen, deterministic=True)[0][:, 0]
    explored = np.abs(np.array(record.actions) - own) > 1e-5
    assert 0 < explored.sum() < 12


def test_the_actor_comes_near_its_best_episode_and_the_rest_teach_it_less():
    quiet = replace(QUICK, replay_episodes=60, gradient_steps=10, actor_learning_rate=1e-3)
    model, record = trained(30, settings=replace(quiet, imitated_episodes=1))
    best = model.episodes.best(1)
    done = model.predict(best[0].numpy(), deterministic=True)[0][:, 0]
    wanted = (best[1][:, 0].numpy() + 1) / 2
    assert np.abs(done - wanted).mean() < 0.1
    plain, _ = trained(30, settings=quiet)
    far = plain.predict(best[0].numpy(), deterministic=True)[0][:, 0]
    assert np.abs(far - wanted).mean() > 2 * np.abs(done - wanted).mean()
    assert max(record.final_rewards) == pytest.approx(
        float(max(steps.rewards[-1, 0] for steps in model.episodes.episodes))
    )


def test_the_best_episodes_are_those_of_the_greatest_rewards():
    buffer = buffer_with([1.0, 3.0, 2.0])
    for number, steps in enumerate(buffer.episodes):
        steps.observations[:] = number
    seen, _ = buffer.best(2)
    assert seen[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_the_warm_up_is_uniform():
    settings = AMCSettings(warmup_episodes=80, hidden_sizes=(16,))
    _, record = trained(80, settings=settings)
    assert kstest(record.actions, "uniform").pvalue > 0.01


# The networks


def test_the_actor_is_a_sigmoid_of_twice_its_last_layer():
    model, _ = trained(6)
    observations = torch.rand(7, 3)
    last = model.actor.mu[:-1](
        model.actor.extract_features(observations, model.actor.features_extractor)
    )
    assert isinstance(model.actor.mu[-1], torch.nn.Tanh)
    actions, _ = model.predict(observations.numpy())
    np.testing.assert_allclose(actions, torch.sigmoid(2 * last).detach().numpy(), atol=1e-6)


def test_the_default_networks_are_those_of_amc():
    model = AMCDDPG(Targets(), device="cpu")
    for network, inputs in ((model.actor.mu, 3), (model.critic.qf0, 4)):
        kinds = [type(layer).__name__ for layer in network]
        assert kinds[:5] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
        shapes = [tuple(p.shape) for p in network.parameters() if p.dim() == 2]
        assert shapes == [(300, inputs), (300, 300), (1, 300)]
    assert len(model.critic.q_networks) == 1


def rates(model: AMCDDPG) -> tuple[float, float]:
    return tuple(network.optimizer.param_groups[0]["lr"] for network in (model.actor, model.critic))


def test_the_learning_rates_are_amcs_before_and_after_training_and_loading(tmp_path: Path):
    model = AMCDDPG(Targets(), settings=QUICK, device="cpu")
    assert rates(model) == (1e-4, 1e-3)
    learn_episodes(model, episodes=6)
    assert rates(model) == (1e-4, 1e-3)
    model.save(tmp_path / "model")
    loaded = AMCDDPG.load(tmp_path / "model", env=Targets(), device="cpu")
    learn_episodes(loaded, episodes=1)
    assert rates(loaded) == (1e-4, 1e-3)


def test_the_first_step_of_adam_is_the_learning_rate():
    model, _ = trained(4)
    before = [p.detach().clone() for p in (*model.actor.parameters(), *model.critic.parameters())]
    model.learn(1, reset_num_timesteps=False)
    steps = [
        (after - p).abs().max().item()
        for after, p in zip(
            (*model.actor.parameters(), *model.critic.parameters()), before, strict=True
        )
    ]
    actor = len(list(model.actor.parameters()))
    # Each of the five steps moves a weight by at most about the learning rate.
    assert 1e-5 < max(steps[:actor]) < STEPS * 1.5e-4
    assert 1e-3 < max(steps[actor:]) < STEPS * 1.5e-3


def test_the_warm_up_does_no_gradient_step():
    model, _ = trained(4)
    fresh = AMCDDPG(Targets(), settings=QUICK, seed=0, device="cpu")
    assert model._n_updates == 0
    assert moments(model).numel() == 0
    for now, then in zip(model.policy.parameters(), fresh.policy.parameters(), strict=True):
        assert torch.equal(now, then)


def test_one_gradient_step_is_done_for_each_step_after_the_warm_up():
    model, _ = trained(7)
    assert model._n_updates == 3 * STEPS


def test_gradient_steps_take_rewards_above_the_baseline():
    model, record = trained(6)
    low, high = min(record.final_rewards), max(record.final_rewards)
    assert low <= model.episodes.baseline <= high


# Normalisation


def normalisers(model: AMCDDPG) -> list[RunningNormaliser]:
    return [m for m in model.policy.modules() if isinstance(m, RunningNormaliser)]


def test_all_networks_see_observations_by_the_same_running_statistics():
    settings = AMCSettings(hidden_sizes=(16,), warmup_episodes=2, replay_episodes=9, batch_size=8)
    model, _ = trained(6, settings=settings)
    seen = model.episodes.observations.reshape(-1, 3)
    assert len(normalisers(model)) == 4
    for normaliser in normalisers(model):
        assert normaliser.running_count.item() == 6 * STEPS
        np.testing.assert_allclose(normaliser.running_mean, seen.mean(axis=0), atol=1e-7)
        np.testing.assert_allclose(normaliser.running_variance, seen.var(axis=0), atol=1e-7)


def test_normalised_observations_have_mean_0_and_deviation_1_and_constants_vanish():
    model, _ = trained(3)
    features = normalisers(model)[0](torch.as_tensor(model.episodes.observations[:, 0]))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features.mean(dim=0), [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(features.std(dim=0, correction=0), [1, 1, 0], atol=1e-4)


def test_a_feature_that_leaves_its_range_stays_in_sight():
    model, _ = trained(3)
    features = normalisers(model)[0](torch.tensor([[0.0, 0.0, 1.0]]))
    assert features[0, 2].item() == 10


def test_before_any_observation_the_normaliser_changes_nothing():
    observations = torch.rand(4, 3)
    assert torch.equal(RunningNormaliser(Targets.observation_space)(observations), observations)


def test_normalisation_can_be_left_out():
    settings = AMCSettings(hidden_sizes=(16,), warmup_episodes=1, normalise_observations=False)
    model, _ = trained(3, settings=settings)
    assert normalisers(model) == []


# Running it


def test_the_same_seed_gives_the_same_actions_and_parameters():
    (first, actions), (again, repeated), (_, other) = (trained(8, seed=s) for s in (3, 3, 4))
    assert actions.actions == repeated.actions
    assert torch.equal(parameters(first), parameters(again))
    assert actions.actions != other.actions


def test_the_global_random_state_does_not_matter_after_the_start():
    (first, actions) = trained(8)
    model = AMCDDPG(Targets(), settings=QUICK, seed=0, device="cpu")
    np.random.seed(123)  # noqa: NPY002
    torch.manual_seed(123)
    record = Record()
    learn_episodes(model, episodes=8, callback=record)
    assert record.actions == actions.actions
    assert torch.equal(parameters(first), parameters(model))


def test_a_new_seed_can_be_set():
    model, other = (AMCDDPG(Targets(), settings=QUICK, seed=s, device="cpu") for s in (0, 1))
    records = Record(), Record()
    for each, record in zip((model, other), records, strict=True):
        each.set_random_seed(9)
        learn_episodes(each, episodes=2, callback=record)
    assert records[0].actions == records[1].actions


def test_saved_with_its_buffer_it_goes_on_as_if_never_stopped(tmp_path: Path):
    whole, record = trained(10)
    model, start = trained(6)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = AMCDDPG.load(tmp_path / "model", env=Targets(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert torch.equal(parameters(loaded), parameters(model))
    end = Record()
    learn_episodes(loaded, episodes=4, callback=end)
    assert start.actions + end.actions == record.actions
    assert torch.equal(parameters(loaded), parameters(whole))


def test_saved_without_its_buffer_it_goes_on_too(tmp_path: Path):
    model, _ = trained(6)
    model.save(tmp_path / "model")
    loaded = AMCDDPG.load(tmp_path / "model", env=Targets(), device="cpu")
    observation = np.array([0.4, 0.5, 0.25], dtype=np.float32)
    assert loaded.predict(observation)[0] == model.predict(observation)[0]
    learn_episodes(loaded, episodes=2)
    assert loaded.episode == 8
    assert loaded._n_updates == 4 * STEPS
    assert not torch.equal(parameters(loaded), parameters(model))


def test_a_loaded_model_predicts_without_an_environment(tmp_path: Path):
    model, _ = trained(6)
    model.save(tmp_path / "model")
    observation = np.array([0.4, 0.5, 0.25], dtype=np.float32)
    loaded = AMCDDPG.load(tmp_path / "model", device="cpu")
    assert loaded.predict(observation)[0] == model.predict(observation)[0]


def test_learn_counts_steps_up_to_the_end_of_an_episode():
    model = AMCDDPG(Targets(), settings=QUICK, seed=0, device="cpu")
    assert model.learn(total_timesteps=STEPS * 5 + 1) is model
    assert (model.num_timesteps, model.episode) == (STEPS * 6, 6)
    assert model._n_updates == 2 * STEPS


def test_learn_episodes_ends_after_the_gradient_steps_of_the_last_one():
    model, record = trained(5)
    assert (model.episode, len(record.actions), model._n_updates) == (5, 5 * STEPS, STEPS)
    learn_episodes(model, episodes=2)
    assert (model.episode, model._n_updates) == (7, 3 * STEPS)


def test_a_checkpoint_does_not_keep_the_limit(tmp_path: Path):
    model = AMCDDPG(Targets(), settings=QUICK, seed=0, device="cpu")
    learn_episodes(model, episodes=2, callback=CheckpointCallback(STEPS, str(tmp_path)))
    loaded = AMCDDPG.load(tmp_path / f"rl_model_{STEPS}_steps", env=Targets(), device="cpu")
    loaded.learn(STEPS * 3, reset_num_timesteps=False)
    assert loaded.num_timesteps == STEPS * 4


class StopAt(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS])
def test_an_episode_that_a_callback_stopped_is_forgotten(step: int):
    model = AMCDDPG(Targets(), settings=QUICK, seed=0, device="cpu")
    model.learn(100, callback=StopAt(step))
    learn_episodes(model, episodes=1)
    assert model.episode == 2
    assert model.episodes.observations[:, 0, 0].tolist() == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8] * 2
    )


def test_a_time_limit_is_not_an_end():
    model = AMCDDPG(TimeLimit(Targets(), 3), settings=QUICK, seed=0, device="cpu")
    learn_episodes(model, episodes=1)
    assert model.episodes.size() == 3
    assert model.episodes.sample(16).dones.max() == 0


def test_it_writes_its_curves(tmp_path: Path):
    model = AMCDDPG(Targets(), settings=QUICK, device="cpu", tensorboard_log=str(tmp_path))
    learn_episodes(model, episodes=6)
    learn_episodes(model, episodes=6)
    assert [path.name for path in tmp_path.iterdir()] == ["AMCDDPG_1"]


def mean_final_reward(model: AMCDDPG | None, *, episodes: int) -> float:
    """Mean over episodes of the actor's actions, or of uniform ones."""
    env, rng = Targets(), np.random.default_rng(0)
    total = 0.0
    for _ in range(episodes):
        observation, _ = env.reset()
        done = False
        while not done:
            action = rng.random(1) if model is None else model.predict(observation)[0]
            observation, reward, done, _, _ = env.step(action)
            total += reward
    return total / episodes


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns(seed: int):
    model, _ = trained(300, settings=AMCSettings(), seed=seed)
    learned = mean_final_reward(model, episodes=20)
    guessed = mean_final_reward(None, episodes=1000)
    assert learned > guessed / 2


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_sizes", ()),
        ("hidden_sizes", (300, 0)),
        ("actor_learning_rate", 0.0),
        ("critic_learning_rate", float("nan")),
        ("tau", 1.5),
        ("gamma", -0.1),
        ("batch_size", 0),
        ("warmup_episodes", -1),
        ("sigma", 0.0),
        ("sigma_decay", 1.1),
        ("replay_episodes", 0),
        ("baseline_decay", 1.0),
    ],
)
def test_impossible_settings_are_refused(name: str, value: object):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        AMCSettings(**{name: value})


def test_several_environments_are_refused():
    with pytest.raises(ValueError, match="2 environments; AMCDDPG follows exactly 1"):
        AMCDDPG(make_vec_env(Targets, n_envs=2))


class WideAction(Targets):
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class TwoActions(Targets):
    action_space = spaces.Box(0.0, 1.0, (2,), np.float32)


class WideObservation(Targets):
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)


class DoubleObservation(Targets):
    observation_space = spaces.Box(0.0, 1.0, (3,), np.float64)


@pytest.mark.parametrize("kind", [WideAction, TwoActions, WideObservation, DoubleObservation])
def test_other_spaces_are_refused(kind: type[Targets]):
    with pytest.raises(ValueError, match=r"space is .*; it must be"):
        AMCDDPG(kind())


def test_a_second_normalisation_is_refused():
    with pytest.raises(ValueError, match="VecNormalize"):
        AMCDDPG(VecNormalize(DummyVecEnv([Targets])))


def test_learning_no_episode_is_refused():
    with pytest.raises(ValueError, match="episodes is 0"):
        learn_episodes(AMCDDPG(Targets(), settings=QUICK), episodes=0)
