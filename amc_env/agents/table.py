"""Agents by name."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from amc_env.agents.amc_settings import AMCSettings
from amc_env.agents.blend import Blend
from amc_env.agents.error_curves import ErrorCurves
from amc_env.agents.evopress import EvoPress
from amc_env.agents.learners import Ddpg, Learner
from amc_env.agents.milp import Milp
from amc_env.agents.most_parameters import MostParameters
from amc_env.agents.one_shot import OneShot
from amc_env.agents.searcher import Searcher
from amc_env.agents.searchers import CmaEs, RandomSearch, Tpe, Uniform
from amc_env.agents.spdy import Spdy
from amc_env.names import Kind, check_options


def _ddpg(name: str, /, **options: Any) -> Ddpg:
    check_options("agent", name, options, ("warm_start", *(f.name for f in fields(AMCSettings))))
    warm_start = options.pop("warm_start", False)
    return Ddpg(settings=AMCSettings(**options), warm_start=warm_start, name=name)


def _learner(algorithm: str, /, **options: Any) -> Learner:
    return Learner(algorithm=algorithm, options=options)


# The numbers of the learners are those of the files in ``configs/agent`` beside this package, which
# a test compares.
AGENTS: Mapping[str, Callable[..., Searcher]] = {
    "ddpg_amc": partial(_ddpg, "ddpg_amc"),
    "ddpg": partial(
        _ddpg,
        "ddpg",
        warm_start=True,
        gamma=0.0,
        actor_learning_rate=1e-3,
        gradient_steps=2,
        warmup_episodes=30,
        sigma=0.1,
        sigma_decay=0.99,
        replay_episodes=400,
        scale_rewards=True,
        imitated_episodes=1,
    ),
    "td3": partial(
        _learner, "td3", learning_rate=1e-3, learning_starts=100, batch_size=64, gamma=1.0
    ),
    "sac": partial(
        _learner, "sac", learning_rate=1e-3, learning_starts=100, batch_size=64, gamma=1.0
    ),
    "ppo": partial(_learner, "ppo", learning_rate=3e-4, gamma=1.0),
    "tqc": partial(
        _learner, "tqc", learning_rate=1e-3, learning_starts=100, batch_size=64, gamma=1.0
    ),
    "uniform": Uniform,
    "random": RandomSearch,
    "cma_es": CmaEs,
    "tpe": Tpe,
    "error_curves": ErrorCurves,
    "blend": Blend,
    "spdy": Spdy,
    "evopress": EvoPress,
    "milp": Milp,
    "most_parameters": MostParameters,
    "one_shot": OneShot,
}

AGENT: Kind[Searcher] = Kind(
    title="agent",
    entry_points="amc_env.agents",
    makers=AGENTS,
    is_made=lambda thing: isinstance(thing, Searcher),
)


def make_agent(agent: str | Searcher, options: Mapping[str, Any] | None = None) -> Searcher:
    """The agent of a name with its options; an agent that is made already is given back.

    The options of ``ddpg`` and ``ddpg_amc`` are ``warm_start`` and the fields of ``AMCSettings``;
    those of ``td3``, ``sac``, ``ppo`` and ``tqc`` are the arguments of their algorithms in
    stable-baselines3 and sb3-contrib.

    Raises:
        ValueError: There is no such name or option, or an option's value is refused.
    """
    return AGENT.make(agent, options)
