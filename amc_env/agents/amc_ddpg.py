"""DDPG as AMC uses it (He et al. 2018), built on the DDPG of stable-baselines3."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    TrainFreq,
)
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn
from typing_extensions import override

from amc_env.agents.amc_settings import AMCSettings
from amc_env.agents.episode_buffer import EpisodeBuffer
from amc_env.agents.truncated_normal import sample_truncated_normal

# A feature that hardly varies is not amplified to noise, and an outlier does not saturate the
# networks.
SMALLEST_DEVIATION = 1e-3
LARGEST_FEATURE = 10.0


class RunningNormaliser(BaseFeaturesExtractor):
    r"""Subtracts the running mean from observations and divides by their running deviation.

    .. math:: f = \mathrm{clip}((o - \mu) / \max(\sigma, 10^{-3}), -10, 10)

    ``mu`` and ``sigma`` are those of all observations that :meth:`observe_` was given. They are
    buffers, so they are saved with the policy. They are named as those of batch norm, because
    stable-baselines3 copies buffers of these names to the target networks unaveraged.
    """

    running_mean: Tensor
    running_variance: Tensor
    running_count: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        """Start with mean 0 and deviation 1, until the first observation."""
        features = int(np.prod(observation_space.shape))
        super().__init__(observation_space, features_dim=features)
        self.register_buffer("running_mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("running_variance", torch.ones(features, dtype=torch.float64))
        self.register_buffer("running_count", torch.zeros((), dtype=torch.float64))

    @override
    def forward(self, observations: Tensor) -> Tensor:
        deviation = self.running_variance.sqrt().clamp_min(SMALLEST_DEVIATION)
        features = (observations.flatten(start_dim=1) - self.running_mean) / deviation
        return features.clamp(-LARGEST_FEATURE, LARGEST_FEATURE).to(observations.dtype)

    def observe_(self, observations: Tensor) -> None:
        """Add observations (n, ...) to the running mean and variance (Chan et al. 1979)."""
        values = observations.flatten(start_dim=1).to(self.running_mean)
        count = len(values)
        total = self.running_count + count
        shift = values.mean(dim=0) - self.running_mean
        deviations = self.running_variance * self.running_count + (
            values.var(dim=0, correction=0) * count + shift**2 * self.running_count * count / total
        )
        self.running_mean += shift * count / total
        self.running_variance.copy_(deviations / total)
        self.running_count.copy_(total)


class AMCDDPG(DDPG):
    r"""Deep deterministic policy gradient as AMC uses it, with the numbers of ``AMCSettings``.

    The environment has one action in [0, 1] and a float32 observation in [0, 1]; it may report the
    action that it really executed as ``info["executed"]``. Training proceeds by whole episodes:
    after each episode, ``gradient_steps`` gradient steps are done for each of its steps; with
    ``episodes_per_update``, after so many episodes for the steps of all of them. The final reward
    of an episode is credited to all its steps, and the critic learns, as in the published code of
    AMC,

    .. math:: Q(s_t, a_t) \leftarrow R - b + \gamma Q'(s_{t+1}, \mu'(s_{t+1}))

    without the last term at the last step; ``R`` is the final reward and ``b`` a moving average of
    it (:class:`EpisodeBuffer`). Exploration draws from a normal distribution around the actor's
    action that is *truncated* to (0, 1), not clipped to it.

    The actor of AMC ends in a sigmoid. The actor of stable-baselines3 ends in tanh, which is then
    rescaled from [-1, 1] to the action space: :math:`(\tanh z + 1) / 2 = \mathrm{sigmoid}(2 z)`.
    The two differ only by the factor 2 in front of the last layer.

    Each call of ``learn`` begins with a new episode. By default (``reset_num_timesteps=True``) it
    counts episodes from 0 and so repeats the warm-up. ``save`` writes everything but the replay
    buffer; together with ``save_replay_buffer``, training continues as if it had not stopped.

    Attributes:
        settings: The settings.
        rng: Generator of the actions of warm-up and exploration.
        episode_limit: Number of finished episodes at which training ends; None for no limit.
    """

    settings: AMCSettings
    rng: np.random.Generator | None = None
    episode_limit: int | None = None

    def __init__(
        self,
        env: GymEnv | str,
        *,
        settings: AMCSettings | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
        tensorboard_log: str | None = None,
        policy: type[TD3Policy] = TD3Policy,
        _init_setup_model: bool = True,
    ) -> None:
        """Build the networks for ``env``; ``policy`` and the last argument are for ``load``.

        Raises:
            ValueError: The environment has other spaces, or there are several environments.
        """
        self.settings = settings or AMCSettings()
        super().__init__(
            policy,
            env,
            learning_rate=self.settings.critic_learning_rate,
            buffer_size=self.settings.replay_episodes,
            learning_starts=0,
            batch_size=self.settings.batch_size,
            tau=self.settings.tau,
            gamma=self.settings.gamma,
            train_freq=(1, "episode"),
            gradient_steps=-1,
            replay_buffer_class=EpisodeBuffer,
            replay_buffer_kwargs={
                "baseline_decay": self.settings.baseline_decay,
                "scale_rewards": self.settings.scale_rewards,
            },
            policy_kwargs=_policy_arguments(self.settings),
            tensorboard_log=tensorboard_log,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if self.env is not None:
            _check_environment(self.env)
        if _init_setup_model:
            self._setup_model()

    @property
    def episode(self) -> int:
        """The number of finished episodes."""
        return self._episode_num

    @property
    def episodes(self) -> EpisodeBuffer:
        """The replay buffer.

        Raises:
            TypeError: A buffer of another kind was loaded.
        """
        if not isinstance(self.replay_buffer, EpisodeBuffer):
            kind = type(self.replay_buffer).__name__
            raise TypeError(f"the replay buffer is a {kind}; AMCDDPG needs an EpisodeBuffer")
        return self.replay_buffer

    @property
    def episodes_of_rollout(self) -> int:
        """How many episodes are played before the agent learns again."""
        if self.episode < self.settings.warmup_episodes:
            return 1
        return self._within_limit(self.settings.episodes_per_update)

    @property
    def independent_episodes(self) -> int:
        """How many of the next episodes do not depend on each other's rewards."""
        warmup = self.settings.warmup_episodes - self.episode
        return self._within_limit(warmup) if warmup > 0 else self.episodes_of_rollout

    def explore(
        self, seen: Any, *, episode: int, policy: BasePolicy, rng: np.random.Generator
    ) -> float:
        """Draw an action at an observation: uniform in the warm-up, then truncated normal.

        Args:
            seen: The observation (1, features).
            episode: The number of the episode, counted from 0.
            policy: Acts.
            rng: Draws.
        """
        is_warming_up = episode < self.settings.warmup_episodes
        if is_warming_up and not self.settings.warmup_around_actor:
            return float(rng.random())
        mean, _ = policy.predict(seen, deterministic=True)
        share = self.settings.explored_share
        if share < 1.0 and rng.random() >= share:
            return float(mean.item())
        sigma = self.settings.sigma_of_episode(episode)
        return sample_truncated_normal(rng, mean=float(mean.item()), sigma=sigma)

    def imitate_(
        self,
        observations: npt.NDArray[np.float32],
        actions: npt.NDArray[np.float32],
        *,
        steps: int = 500,
        learning_rate: float = 1e-3,
    ) -> None:
        """Train the actor to choose these actions (n,) in [0, 1] at observations (n, features).

        The observations also enter the running mean and deviation of the observations. At the end
        the target actor becomes a copy of the actor.
        """
        seen = torch.as_tensor(observations, device=self.device)
        observe_(self.policy, seen)
        wanted = 2 * torch.as_tensor(actions, device=self.device)[:, None] - 1
        optimizer = torch.optim.Adam(self.actor.mu.parameters(), lr=learning_rate)
        self._approach_(seen, wanted, optimizer=optimizer, steps=steps)
        self.actor_target.load_state_dict(self.actor.state_dict())

    @override
    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        self.rng = np.random.default_rng(seed)
        if self.replay_buffer is not None:
            self.episodes.seed_(seed)

    @override
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        if self.episode <= self.settings.warmup_episodes:
            return
        steps = gradient_steps * self.settings.gradient_steps
        super().train(steps, batch_size)
        if self.settings.imitated_episodes:
            best = self.episodes.best(self.settings.imitated_episodes)
            self._approach_(*best, optimizer=self.actor.optimizer, steps=steps)
        self.logger.record("train/baseline", self.episodes.baseline)
        self.logger.record("train/sigma", self.settings.sigma_of_episode(self.episode))

    @override
    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: Any,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        if self.episode_limit is not None and self.episode >= self.episode_limit:
            return RolloutReturn(0, 0, continue_training=False)
        rollout = super().collect_rollouts(
            env,
            callback,
            TrainFreq(self.episodes_of_rollout, train_freq.unit),
            replay_buffer,
            action_noise=action_noise,
            learning_starts=learning_starts,
            log_interval=log_interval,
        )
        if rollout.n_episodes:
            for seen in self.episodes.last_observations(rollout.n_episodes):
                observe_(self.policy, torch.as_tensor(seen, device=self.device))
        return rollout

    @override
    def _setup_model(self) -> None:
        saved = self.rng
        super()._setup_model()
        self.episodes.seed_(self.seed)
        # Loading calls this too, and seeds the generator; the saved one must continue instead.
        self.rng = saved or self.rng
        for group in self.actor.optimizer.param_groups:
            group["lr"] = self.settings.actor_learning_rate

    @override
    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # A callback may have stopped the last call within an episode; its last step is not stored.
        self.episodes.drop_unfinished_()
        self._last_obs = None
        return super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )

    @override
    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        # The parent knows a single learning rate and would set it for both optimizers.
        self.logger.record("train/actor_learning_rate", self.settings.actor_learning_rate)
        self.logger.record("train/critic_learning_rate", self.settings.critic_learning_rate)

    @override
    def _sample_action(
        self,
        learning_starts: int,
        action_noise: ActionNoise | None = None,
        n_envs: int = 1,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self.rng is None or self._last_obs is None:
            raise RuntimeError("there is no observation to act on; call learn()")
        seen = np.asarray(self._last_obs)
        drawn = self.explore(seen, episode=self.episode, policy=self.policy, rng=self.rng)
        action = np.array([[drawn]], dtype=np.float32)
        return action, self.policy.scale_action(action)

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "episode_limit"]

    def _within_limit(self, episodes: int) -> int:
        """So many episodes, or those that are left until training ends."""
        if self.episode_limit is None:
            return episodes
        return min(episodes, self.episode_limit - self.episode)

    def _approach_(
        self, seen: Tensor, wanted: Tensor, *, optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        """Take steps towards these scaled actions (n, 1) at observations (n, features)."""
        self.actor.set_training_mode(True)
        for _ in range(steps):
            optimizer.zero_grad()
            (self.actor(seen) - wanted).square().mean().backward()
            optimizer.step()
        self.actor.set_training_mode(False)


def observe_(policy: BasePolicy, observations: Tensor) -> None:
    """Add observations (n, features) to the statistics of all networks of a policy."""
    for module in policy.modules():
        if isinstance(module, RunningNormaliser):
            module.observe_(observations)


def learn_episodes(model: AMCDDPG, *, episodes: int, callback: MaybeCallback = None) -> None:
    """Train ``model`` in place for ``episodes`` more episodes.

    A callback of stable-baselines3 that stops training at the end of an episode would lose the last
    step and the gradient steps of that episode. Here the model itself stops after them.

    Raises:
        ValueError: ``episodes`` is less than 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    model.episode_limit = model.episode + episodes
    try:
        model.learn(
            sys.maxsize,
            callback=callback,
            tb_log_name="AMCDDPG",
            reset_num_timesteps=model.num_timesteps == 0,
        )
    finally:
        model.episode_limit = None


def _policy_arguments(settings: AMCSettings) -> dict[str, Any]:
    """Arguments of the policy of stable-baselines3."""
    extractor = RunningNormaliser if settings.normalise_observations else FlattenExtractor
    return {
        "net_arch": list(settings.hidden_sizes),
        "activation_fn": nn.ReLU,
        "features_extractor_class": extractor,
        # The networks are so small that most of a step is the overhead of its operations.
        "optimizer_kwargs": {"fused": True},
    }


def _check_environment(env: VecEnv) -> None:
    """Refuse an environment of another kind than :class:`AMCDDPG` describes.

    Raises:
        ValueError: There are several environments, or the spaces differ.
    """
    if env.num_envs != 1:
        raise ValueError(f"there are {env.num_envs} environments; AMCDDPG follows exactly 1")
    if isinstance(env, VecNormalize):
        raise ValueError("the environment is a VecNormalize; AMCDDPG normalises by itself")
    seen, acted = env.observation_space, env.action_space
    if not (isinstance(seen, spaces.Box) and seen.dtype == np.float32 and _is_within_unit(seen)):
        raise ValueError(f"the observation space is {seen}; it must be a float32 Box in [0, 1]")
    if acted != spaces.Box(0.0, 1.0, (1,), np.float32):
        raise ValueError(f"the action space is {acted}; it must be Box(0, 1, (1,), float32)")


def _is_within_unit(space: spaces.Box) -> bool:
    """Whether all values of ``space`` lie in [0, 1]."""
    return bool((space.low >= 0).all() and (space.high <= 1).all())
