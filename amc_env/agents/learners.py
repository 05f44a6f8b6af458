"""Reinforcement learners as searchers: AMC's DDPG, and those of stable-baselines3 unmodified.

stable-baselines3 takes seconds to import, so it is imported only where a learner is made or run.
"""

import importlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from amc_env.agents.amc_settings import AMCSettings
from amc_env.agents.blend import blends
from amc_env.agents.episodes import EXACTLY, Recorder
from amc_env.agents.options import FRACTION, SHARE, YES_OR_NO, Rule, check_values, real, whole
from amc_env.agents.searcher import Searcher
from amc_env.env.environment import Action, Observation
from amc_env.extras import need
from amc_env.names import check_name, check_options

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from amc_env.agents.amc_ddpg import AMCDDPG
    from amc_env.agents.rehearsal import Rehearsal

# The package that each algorithm is imported from.
ALGORITHMS: Mapping[str, str] = {
    "td3": "stable_baselines3",
    "sac": "stable_baselines3",
    "ppo": "stable_baselines3",
    "tqc": "sb3_contrib",
}

# Arguments that a search passes to the algorithm itself; a user cannot choose them.
_GIVEN = ("policy", "env", "seed", "device", "tensorboard_log", "_init_setup_model")

_RATE: Rule = (
    lambda x: callable(x) or real(lambda rate: 0 < rate < float("inf"), "")[0](x),
    "a positive number, or a function of the remaining progress",
)
# Options that stable-baselines3 does not check itself, or only where they fail.
_RULES: Mapping[str, Rule] = {
    "learning_rate": _RATE,
    "clip_range": _RATE,
    "buffer_size": whole(1),
    "learning_starts": whole(0),
    "batch_size": whole(1),
    "tau": SHARE,
    "gamma": FRACTION,
    "gae_lambda": FRACTION,
    "train_freq": (
        lambda x: whole(1)[0](x) or (_is_pair(x) and whole(1)[0](x[0])),
        "a whole number of steps, at least 1, or a pair such as (1, 'episode')",
    ),
    "gradient_steps": whole(-1),
    "n_steps": whole(1),
    "n_epochs": whole(1),
    "policy_delay": whole(1),
    "target_update_interval": whole(1),
    "top_quantiles_to_drop_per_net": whole(0),
    "stats_window_size": whole(1),
    "ent_coef": (
        lambda x: isinstance(x, str) or real(lambda _: True, "")[0](x),
        "a number, or 'auto'",
    ),
    "vf_coef": real(lambda x: x >= 0, "a number, at least 0"),
    "max_grad_norm": real(lambda x: x > 0, "a positive number"),
    "target_policy_noise": real(lambda x: x >= 0, "a number, at least 0"),
    "target_noise_clip": real(lambda x: x >= 0, "a number, at least 0"),
    "normalize_advantage": YES_OR_NO,
    "use_sde": YES_OR_NO,
    "use_sde_at_warmup": YES_OR_NO,
    "optimize_memory_usage": YES_OR_NO,
    "policy_kwargs": (lambda x: x is None or isinstance(x, Mapping), "a mapping of arguments"),
}


@dataclass(frozen=True, kw_only=True)
class Ddpg(Searcher):
    """AMC's DDPG. The last episode is played by the actor alone, without noise.

    Attributes:
        settings: The settings of the agent.
        warm_start: Whether the search begins with the episodes of ``blend``; without a budget,
            which it needs, it does not. Where there is a policy to begin from, it is played before
            them. The actor is trained to imitate the best of all, the replay buffer holds them, and
            the warm-up explores around the actor instead of uniformly.
        name: The name in tables and files.
    """

    settings: AMCSettings = field(default_factory=AMCSettings)
    warm_start: bool = False
    name: str = "ddpg_amc"

    def __post_init__(self) -> None:
        check_values("agent 'ddpg'", vars(self), {"warm_start": YES_OR_NO})

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        from amc_env.agents.amc_ddpg import AMCDDPG, learn_episodes

        settings, plans = self.settings, self._plans(recorder)
        if plans:
            settings = replace(settings, warmup_around_actor=True)
        with _global_randomness_restored():
            model = AMCDDPG(
                recorder,
                settings=settings,
                seed=seed,
                device="cpu",
                tensorboard_log=_folder(recorder),
            )
            _log_nowhere_unless_asked_(model)
            if plans:
                _demonstrate_(model, recorder, plans[:episodes])
            left = episodes - len(recorder.episodes)
            if left > 1:
                learn_episodes(model, episodes=left - 1, callback=_rehearsal(recorder))
            if left:
                _play_greedily(model, recorder)

    def _plans(self, recorder: Recorder) -> list[Mapping[str, int]]:
        """The policies to begin with, as the numbers of channels to keep."""
        plans: list[Mapping[str, int]] = [recorder.start] if recorder.start else []
        if self.warm_start and recorder.pruning.budget:
            plans += blends(recorder.pruning)
        return plans


@dataclass(frozen=True, kw_only=True)
class Learner(Searcher):
    """A learner of stable-baselines3 or sb3-contrib. The last episode is played without noise.

    Attributes:
        algorithm: ``td3``, ``sac``, ``ppo`` or ``tqc``.
        options: Arguments of the algorithm. Where one is not given, the algorithm's own default
            holds; ``make_agent`` has other defaults, which suit short searches.

    Raises:
        ValueError: The algorithm or an option does not exist, or the value of an option is refused.
    """

    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("algorithm", self.algorithm, ALGORITHMS)
        need(f"agent {self.algorithm!r}", ALGORITHMS[self.algorithm], extra="agents")
        options = dict(self.options)
        check_options("agent", self.algorithm, options, learner_options(self.algorithm))
        if isinstance(options.get("train_freq"), list):
            # A configuration file has lists only, and stable-baselines3 wants a tuple.
            options["train_freq"] = tuple(options["train_freq"])
        check_values(f"agent {self.algorithm!r}", options, _RULES)
        object.__setattr__(self, "options", options)

    @property
    def name(self) -> str:
        """The name in tables and files."""
        return self.algorithm

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        steps = len(recorder.pruning.graph.groups)
        given: dict[str, Any] = dict(self.options)
        if self.algorithm == "ppo":
            # A rollout is whole episodes, and a batch, which is 2 steps or more, divides it.
            rollout = int(given.get("n_steps", max(2, steps * max(1, min(8, episodes - 1)))))
            batch = steps if steps > 1 and rollout % steps == 0 else rollout
            given = {"n_steps": rollout, "batch_size": batch, **given}
        learning_steps = self._learning_steps(given, steps=steps, episodes=episodes)
        with _global_randomness_restored():
            model = self._model(recorder, given, seed=seed)
            if learning_steps:
                model.learn(learning_steps)
            _play_greedily(model, recorder)

    def _model(self, recorder: Recorder, given: Mapping[str, Any], *, seed: int) -> "BaseAlgorithm":
        algorithm = _algorithm(self.algorithm)
        log = _folder(recorder)
        try:
            model = algorithm(
                "MlpPolicy", recorder, seed=seed, device="cpu", tensorboard_log=log, **given
            )
        except (TypeError, ValueError, AttributeError, KeyError, AssertionError) as error:
            raise ValueError(
                f"agent {self.algorithm!r} cannot be made with the options {dict(self.options)}: "
                f"{str(error) or type(error).__name__}"
            ) from error
        _log_nowhere_unless_asked_(model)
        return model

    def _learning_steps(self, given: Mapping[str, Any], *, steps: int, episodes: int) -> int:
        """How many steps to learn for: whole rollouts that leave room for a last episode."""
        rollout = _rollout(given, steps=steps, is_ppo=self.algorithm == "ppo")
        room = (episodes - 1) * steps
        # PPO needs 2 steps at least, even where no option asks for them.
        if room and rollout > max(2, room):
            raise ValueError(
                f"{self.algorithm} learns after every {rollout} steps, but {episodes} episodes of "
                f"{steps} steps leave {room} before the last; give more episodes or fewer steps"
            )
        return room // rollout * rollout


def learner_options(algorithm: str) -> tuple[str, ...]:
    """Names of the options of an algorithm."""
    signature = inspect.signature(_algorithm(algorithm))
    return tuple(name for name in signature.parameters if name not in _GIVEN)


def _algorithm(name: str) -> "type[BaseAlgorithm]":
    found: type[BaseAlgorithm] = getattr(importlib.import_module(ALGORITHMS[name]), name.upper())
    return found


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[1] in ("step", "episode")


def _rollout(given: Mapping[str, Any], *, steps: int, is_ppo: bool) -> int:
    """Environment steps between two updates of the networks."""
    if is_ppo:
        return int(given["n_steps"])
    often = given.get("train_freq", 1)
    number, unit = often if isinstance(often, tuple) else (often, "step")
    return int(number) * (steps if unit == "episode" else 1)


def _folder(recorder: Recorder) -> str | None:
    return str(recorder.log) if recorder.log else None


@contextmanager
def _global_randomness_restored() -> Iterator[None]:
    """Put the global random generators back to where they were.

    The learners of stable-baselines3 seed all of them, those of every CUDA device included, and
    draw from them; the rest of a program must not depend on whether a learner ran before.
    """
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002


def _demonstrate_(model: "AMCDDPG", recorder: Recorder, plans: Sequence[Mapping[str, int]]) -> None:
    """Play these policies, keep them in the agent's memory, and let it imitate the best."""
    recorder.pruning.expect(plans)
    played = [_demonstrated(recorder, counts) for counts in plans]
    rewards = [episode.reward for episode in recorder.episodes]
    for (observations, actions), reward in zip(played, rewards, strict=True):
        model.episodes.demonstrate_(observations, actions, reward=reward)
    model.imitate_(*played[rewards.index(max(rewards))])


def _demonstrated(recorder: Recorder, counts: Mapping[str, int]) -> tuple[Observation, Action]:
    """Observations and executed actions of an episode that keeps these numbers of channels."""
    seen, _ = recorder.reset(options={**EXACTLY})
    observations = []
    for action in recorder.actions_for(counts):
        observations.append(seen)
        seen = recorder.step(np.array([action], dtype=np.float32))[0]
    executed = np.array(recorder.episodes[-1].sparsities, dtype=np.float32)
    return np.stack(observations), executed


def _rehearsal(recorder: Recorder) -> "Rehearsal | None":
    """What tells workers the next episodes, where there are workers."""
    if not recorder.pruning.ahead.is_on:
        return None
    from amc_env.agents.rehearsal import Rehearsal

    return Rehearsal(recorder.pruning)


def _log_nowhere_unless_asked_(model: "BaseAlgorithm") -> None:
    """Take its own logger from a learner without a log, which makes a temporary folder for it."""
    from stable_baselines3.common.logger import Logger

    if model.tensorboard_log is None:
        model.set_logger(Logger(folder=None, output_formats=[]))


def _play_greedily(model: "BaseAlgorithm", recorder: Recorder) -> None:
    seen, _ = recorder.reset()
    done = False
    while not done:
        action, _ = model.predict(seen, deterministic=True)
        seen, _, done, _, _ = recorder.step(np.asarray(action))
