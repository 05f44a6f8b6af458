"""Reinforcement learners as searchers: AMC's DDPG, and those of stable-baselines3 unmodified."""

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from typing_extensions import override

from agents.amc_ddpg import AMCDDPG, AMCSettings, learn_episodes
from agents.episodes import Recorder
from agents.error_curves import allocate
from agents.searcher import Searcher
from amc_env.env.environment import Action, Observation

ALGORITHMS: Mapping[str, type[BaseAlgorithm]] = {"td3": TD3, "sac": SAC, "ppo": PPO, "tqc": TQC}

# Arguments of an algorithm that a search gives itself, and which are no options therefore.
_GIVEN = ("policy", "env", "seed", "device", "tensorboard_log", "_init_setup_model")


@dataclass(frozen=True, kw_only=True)
class Ddpg(Searcher):
    """AMC's DDPG. The last episode is the actor's own, without noise.

    Attributes:
        settings: The agent's numbers.
        warm_start: Whether the first episode is that of ``error_curves``, which the actor learns to
            imitate; the warm-up then explores around it instead of uniformly.
    """

    settings: AMCSettings = field(default_factory=AMCSettings)
    warm_start: bool = False

    @override
    def _run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        log = str(recorder.log) if recorder.log else None
        settings = self.settings
        if self.warm_start:
            settings = replace(settings, warmup_around_actor=True)
        with _global_randomness_restored():
            model = AMCDDPG(
                recorder, settings=settings, seed=seed, device="cpu", tensorboard_log=log
            )
            if self.warm_start:
                observations, actions = _demonstration(recorder)
                model.imitate_(observations, actions)
            left = episodes - len(recorder.episodes)
            if left > 1:
                learn_episodes(model, episodes=left - 1)
            if left:
                _play_greedily(model, recorder)


@dataclass(frozen=True, kw_only=True)
class Learner(Searcher):
    """A learner of stable-baselines3 or sb3-contrib. The last episode is the policy's own.

    Attributes:
        algorithm: ``td3``, ``sac``, ``ppo`` or ``tqc``.
        options: Arguments of the algorithm.
    """

    algorithm: str = "td3"
    options: Mapping[str, Any] = field(default_factory=dict)

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
            # A rollout is whole episodes, and a batch, which is 2 steps or more, divides it.
            rollout = int(given.get("n_steps", max(2, steps * max(1, min(8, episodes - 1)))))
            batch = steps if steps > 1 and rollout % steps == 0 else rollout
            given = {"n_steps": rollout, "batch_size": batch, **given}
        whole = self._whole_steps(given, steps=steps, episodes=episodes)
        log = str(recorder.log) if recorder.log else None
        with _global_randomness_restored():
            model = ALGORITHMS[self.algorithm](
                "MlpPolicy", recorder, seed=seed, device="cpu", tensorboard_log=log, **given
            )
            if whole:
                model.learn(whole)
            _play_greedily(model, recorder)

    def _whole_steps(self, given: Mapping[str, Any], *, steps: int, episodes: int) -> int:
        """How long to learn: whole rollouts that leave room for a last episode."""
        rollout = _rollout(given, steps=steps, is_ppo=self.algorithm == "ppo")
        room = (episodes - 1) * steps
        # No option asks for the 2 steps that are the least of PPO.
        if room and rollout > max(2, room):
            raise ValueError(
                f"{self.algorithm} learns after every {rollout} steps, but {episodes} episodes of "
                f"{steps} steps leave {room} before the last; give more episodes or fewer steps"
            )
        return room // rollout * rollout


def _rollout(given: Mapping[str, Any], *, steps: int, is_ppo: bool) -> int:
    """Environment steps between two updates, which is what learning goes by."""
    if is_ppo:
        return int(given["n_steps"])
    often = given.get("train_freq", 1)
    number, unit = often if isinstance(often, tuple) else (often, "step")
    return int(number) * (steps if unit == "episode" else 1)


def learner_options(algorithm: str) -> tuple[str, ...]:
    """Names of the options of an algorithm."""
    return tuple(n for n in inspect.signature(ALGORITHMS[algorithm]).parameters if n not in _GIVEN)


@contextmanager
def _global_randomness_restored() -> Iterator[None]:
    """The learners of stable-baselines3 seed and draw globally; the caller is to notice nothing."""
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002


def _demonstration(recorder: Recorder) -> tuple[Observation, Action]:
    """An episode by the error curves: what was seen before each step, and what was executed."""
    seen, _ = recorder.reset()
    observations = []
    for action in recorder.actions_for(allocate(recorder.pruning)):
        observations.append(seen)
        seen = recorder.step(np.array([action], dtype=np.float32))[0]
    executed = np.array(recorder.episodes[-1].sparsities, dtype=np.float32)
    return np.stack(observations), executed


def _play_greedily(model: BaseAlgorithm, recorder: Recorder) -> None:
    seen, _ = recorder.reset()
    done = False
    while not done:
        action, _ = model.predict(seen, deterministic=True)
        seen, _, done, _, _ = recorder.step(np.asarray(action))
