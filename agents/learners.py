"""Reinforcement learners as searchers: AMC's DDPG, and those of stable-baselines3 unmodified."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from typing_extensions import override

from agents.amc_ddpg import AMCDDPG, AMCSettings, learn_episodes
from agents.episodes import Recorder
from agents.searcher import Searcher

ALGORITHMS: Mapping[str, type[BaseAlgorithm]] = {"td3": TD3, "sac": SAC, "ppo": PPO, "tqc": TQC}


@dataclass(frozen=True, kw_only=True)
class Ddpg(Searcher):
    """AMC's DDPG. The last episode is the actor's own, without noise.

    Attributes:
        settings: The agent's numbers.
        tensorboard: Folder for losses and exploration, if wanted.
    """

    settings: AMCSettings = field(default_factory=AMCSettings)
    tensorboard: Path | None = None

    @override
    def _run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        log = str(self.tensorboard) if self.tensorboard else None
        model = AMCDDPG(
            recorder, settings=self.settings, seed=seed, device="cpu", tensorboard_log=log
        )
        if episodes > 1:
            learn_episodes(model, episodes=episodes - 1)
        _play_greedily(model, recorder)


@dataclass(frozen=True, kw_only=True)
class Learner(Searcher):
    """A learner of stable-baselines3 or sb3-contrib. The last episode is the policy's own.

    Attributes:
        algorithm: ``td3``, ``sac``, ``ppo`` or ``tqc``.
        options: Arguments of the algorithm.
        tensorboard: Folder for its curves, if wanted.
    """

    algorithm: str = "td3"
    options: Mapping[str, Any] = field(default_factory=dict)
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm {self.algorithm!r} does not exist; choose one of "
                f"{', '.join(ALGORITHMS)}"
            )

    @override
    def _run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        steps = len(recorder.pruning.graph.groups)
        given: dict[str, Any] = dict(self.options)
        if self.algorithm == "ppo":
            # A rollout is whole episodes, and a batch divides it.
            rollout = steps * max(1, min(8, episodes - 1))
            given = {"n_steps": max(2, rollout), "batch_size": max(2, steps), **given}
        model = ALGORITHMS[self.algorithm](
            "MlpPolicy",
            recorder,
            seed=seed,
            device="cpu",
            tensorboard_log=str(self.tensorboard) if self.tensorboard else None,
            **given,
        )
        rollout = int(given.get("n_steps", steps))
        whole = (episodes - 1) * steps // rollout * rollout
        if whole:
            model.learn(whole)
        _play_greedily(model, recorder)


def _play_greedily(model: BaseAlgorithm, recorder: Recorder) -> None:
    seen, _ = recorder.reset()
    done = False
    while not done:
        action, _ = model.predict(seen, deterministic=True)
        seen, _, done, _, _ = recorder.step(np.asarray(action))
