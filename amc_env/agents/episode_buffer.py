"""A replay buffer of whole episodes, rewarded and filled as in AMC."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from typing_extensions import override

Array = npt.NDArray[Any]

FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """Steps of one episode, in order; every array is (steps, 1, ...), the 1 for the environment.

    Attributes:
        observations: The observations before the actions.
        next_observations: The observations after the actions.
        actions: The executed actions, scaled to [-1, 1].
        rewards: The rewards (steps, 1).
        dones: 1 where the episode ended, else 0 (steps, 1).
        timeouts: 1 where it ended by a time limit only, else 0 (steps, 1).
    """

    observations: Array
    next_observations: Array
    actions: Array
    rewards: Array
    dones: Array
    timeouts: Array

    def __post_init__(self) -> None:
        for name in FIELDS:
            array = getattr(self, name)
            if array.shape[:2] != (len(self), 1) or len(self) == 0:
                raise ValueError(
                    f"{name} has shape {array.shape} beside {len(self)} observations; "
                    "it must be (observations, 1, ...), with 1 observation or more"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is {array}; every number must be finite")

    def __len__(self) -> int:
        return len(self.observations)


def finish(steps: Sequence[Steps]) -> Steps:
    """Join the steps of a finished episode and credit the final reward to each of them."""
    joined = {name: np.concatenate([getattr(step, name) for step in steps]) for name in FIELDS}
    return Steps(**joined | {"rewards": np.full_like(joined["rewards"], joined["rewards"][-1])})


class EpisodeBuffer(ReplayBuffer):
    r"""Holds the last whole episodes; samples their steps with rewards less a baseline.

    A step can be sampled once its episode has ended. Its action is the one that was *executed*,
    ``info["executed"]`` in [0, 1], or the action asked for if the environment reports none; where
    the last step reports those of the whole episode as ``info["sparsities"]``, these hold. Its
    reward is the final reward ``R`` of its episode, from which :meth:`sample` subtracts a baseline:

    .. math:: r = (R - b) / \sigma, \quad b \leftarrow \lambda b + (1 - \lambda) \bar R

    ``R-bar`` is the mean of ``R`` over the sampled batch, ``lambda`` is ``baseline_decay``, and
    ``b`` starts at the first ``R-bar``. Source: He et al. 2018 and their published code. There,
    ``sigma`` is 1; with ``scale_rewards`` it is the deviation of ``R`` over the episodes held, so
    that rewards that differ by a hundredth teach as much as those that differ by one.

    ``buffer_size`` counts *episodes*; only 1 environment and no ``optimize_memory_usage`` are
    accepted.

    Attributes:
        episodes: The finished episodes, oldest first.
        baseline: ``b``; None before the first sample.
    """

    @override
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        device: torch.device | str = "auto",
        *,
        baseline_decay: float,
        scale_rewards: bool = False,
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
    ) -> None:
        if n_envs != 1:
            raise ValueError(f"n_envs is {n_envs}; an EpisodeBuffer follows 1 environment")
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage is True; an EpisodeBuffer needs False")
        super().__init__(buffer_size, observation_space, action_space, device=device)
        self.low, self.high = float(action_space.low.min()), float(action_space.high.max())
        self.baseline_decay = baseline_decay
        self.scale_rewards = scale_rewards
        self.reset()
        self.seed_(None)

    def seed_(self, seed: int | None) -> None:
        """Seed the random numbers of :meth:`sample`."""
        self.rng = np.random.default_rng(seed)

    def drop_unfinished_(self) -> None:
        """Discard the steps of the episode that has not ended."""
        self.unfinished: list[Steps] = []

    def last_observations(self, count: int = 1) -> list[Array]:
        """Observations (steps, ...) of each of the last finished episodes, in their order.

        Raises:
            ValueError: No episode has ended.
        """
        if not self.episodes:
            raise ValueError("the buffer holds no finished episode; at least 1 is needed")
        return [episode.observations[:, 0] for episode in [*self.episodes][-count:]]

    def demonstrate_(self, observations: Array, executed: Array, *, reward: float) -> None:
        """Add a finished episode that another player played.

        Args:
            observations: (steps, features), before each action.
            executed: (steps,), the executed actions.
            reward: The final reward.
        """
        count = len(observations)
        ends = np.zeros((count, 1), dtype=np.float32)
        ends[-1] = 1.0
        actions = np.array([self._scaled(float(action)) for action in executed], dtype=np.float32)
        episode = Steps(
            observations=observations[:, None],
            # What follows the last step counts for nothing.
            next_observations=np.concatenate([observations[1:], observations[-1:]])[:, None],
            actions=actions.reshape(count, 1, self.action_dim),
            rewards=np.full((count, 1), reward, dtype=np.float32),
            dones=ends,
            timeouts=np.zeros_like(ends),
        )
        self.episodes.append(episode)
        self._lay_out_()

    def best(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations (steps, ...) and scaled actions (steps, 1) of the most rewarded episodes.

        Of equal rewards, the older episode counts as better.
        """
        ordered = sorted(self.episodes, key=lambda steps: -float(steps.rewards[-1, 0]))[:count]
        parts = [[s.observations[:, 0] for s in ordered], [s.actions[:, 0] for s in ordered]]
        observations, actions = (self.to_torch(np.concatenate(part)) for part in parts)
        return observations, actions

    @override
    def reset(self) -> None:
        super().reset()
        self.drop_unfinished_()
        self.episodes: deque[Steps] = deque(maxlen=self.buffer_size)
        self.baseline: float | None = None
        self._steps, self._scale = 0, 1.0

    @override
    def size(self) -> int:
        return self._steps

    @override
    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        info = infos[0]
        self.unfinished.append(
            Steps(
                observations=np.array(obs)[None],
                next_observations=np.array(next_obs)[None],
                actions=self._executed(info, asked=action),
                rewards=np.array(reward, dtype=np.float32)[None],
                dones=np.array(done, dtype=np.float32)[None],
                timeouts=np.array([[info.get("TimeLimit.truncated", False)]], dtype=np.float32),
            )
        )
        if done[0]:
            episode = finish(self.unfinished)
            if "sparsities" in info:
                actions = [self._scaled(sparsity) for sparsity in info["sparsities"]]
                episode = replace(
                    episode, actions=np.array(actions, np.float32).reshape(episode.actions.shape)
                )
            self.episodes.append(episode)
            self.drop_unfinished_()
            self._lay_out_()

    @override
    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if not self.episodes:
            raise ValueError("the buffer holds no finished episode to sample from; add one first")
        samples = self._get_samples(self._drawn(batch_size), env=env)
        mean = float(samples.rewards.mean())
        before = mean if self.baseline is None else self.baseline
        self.baseline = self.baseline_decay * before + (1 - self.baseline_decay) * mean
        return samples._replace(rewards=(samples.rewards - self.baseline) / self._scale)

    def _deviation(self) -> float:
        """What rewards are divided by: 1 where they are not to be scaled, or are all equal."""
        if not self.scale_rewards:
            return 1.0
        finals = np.array([steps.rewards[-1, 0] for steps in self.episodes], dtype=np.float64)
        return float(finals.std()) or 1.0

    def _drawn(self, batch_size: int) -> Array:
        """Indices of the steps of one batch."""
        return self.rng.integers(self.size(), size=batch_size)

    def _executed(self, info: dict[str, Any], *, asked: Array) -> Array:
        """The executed action (1, 1, 1), scaled to [-1, 1]; ``asked`` is scaled already."""
        if "executed" not in info:
            return np.array(asked, dtype=np.float32).reshape(1, 1, self.action_dim)
        executed = float(info["executed"])
        return np.full((1, 1, self.action_dim), self._scaled(executed), dtype=np.float32)

    def _scaled(self, executed: float) -> float:
        if not self.low <= executed <= self.high:
            raise ValueError(
                f"the executed action is {executed}; it must be in [{self.low:g}, {self.high:g}]"
            )
        return 2 * (executed - self.low) / (self.high - self.low) - 1

    def _lay_out_(self) -> None:
        """Write the episodes into the arrays that stable-baselines3 samples from."""
        for name in FIELDS:
            setattr(self, name, np.concatenate([getattr(steps, name) for steps in self.episodes]))
        # These are read with every gradient step, and an episode has many.
        self._steps = sum(map(len, self.episodes))
        self._scale = self._deviation()
