"""The next episodes of AMC's DDPG, drawn ahead so that workers can begin with them."""

import copy

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.amc_ddpg import AMCDDPG, observe_
from amc_env.env.environment import Observation


class Rehearsal(BaseCallback):
    """Has the episodes evaluated side by side that an agent plays before it learns again.

    What the agent does in them depends on its random numbers and on observations, but on no reward
    of theirs. So a copy of the agent knows which networks they will ask for. The agent itself then
    plays them as if there had been no rehearsal.
    """

    model: AMCDDPG

    def __init__(self, env: ChannelPruningEnv) -> None:
        super().__init__()
        self._env = env
        self._rehearsed = 0

    @override
    def _on_rollout_start(self) -> None:
        count = self.model.independent_episodes
        # A single one would be evaluated no sooner by a worker.
        if self.model.episode < self._rehearsed or count == 1:
            return
        first = self.model.episode
        self._rehearsed = first + count
        twin = _Twin(self.model)
        self._env.expect([twin.play(self._env, first + number) for number in range(count)])

    @override
    def _on_step(self) -> bool:
        return True


class _Twin:
    """A copy of an agent that plays on and learns nothing."""

    def __init__(self, model: AMCDDPG) -> None:
        self._model = model
        self._policy = copy.deepcopy(model.policy)
        self._rng = copy.deepcopy(model.rng) or np.random.default_rng()

    def play(self, env: ChannelPruningEnv, episode: int) -> dict[str, int]:
        """How many channels each group keeps at the end of an episode."""
        seen: list[Observation] = []

        def act(observation: Observation) -> float:
            seen.append(observation)
            return self._model.explore(
                observation[None], episode=episode, policy=self._policy, rng=self._rng
            )

        counts = env.rehearse(act)
        if episode < self._model.settings.warmup_episodes:
            # In the warm-up every episode is observed at its end; later, when the rollout is over.
            observe_(self._policy, torch.as_tensor(np.stack(seen), device=self._model.device))
        return counts
