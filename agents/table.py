"""Agents by name."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from agents.amc_ddpg import AMCSettings
from agents.error_curves import ErrorCurves
from agents.learners import Ddpg, Learner, learner_options
from agents.searcher import Searcher
from agents.searchers import CmaEs, RandomSearch, Tpe, Uniform
from amc_env.names import check_name

AGENTS: Mapping[str, Callable[..., Searcher]] = {
    "ddpg": Ddpg,
    "td3": partial(Learner, algorithm="td3"),
    "sac": partial(Learner, algorithm="sac"),
    "ppo": partial(Learner, algorithm="ppo"),
    "tqc": partial(Learner, algorithm="tqc"),
    "uniform": Uniform,
    "random": RandomSearch,
    "cma_es": CmaEs,
    "tpe": Tpe,
    "error_curves": ErrorCurves,
}


def make_agent(agent: str | Searcher, options: Mapping[str, Any] | None = None) -> Searcher:
    """The agent of a name with its options; one made already is given back.

    The options of ``ddpg`` are ``warm_start`` and those of ``AMCSettings``; those of
    stable-baselines3's learners are their own arguments.

    Raises:
        ValueError: There is no such name or option, or an option's value is refused.
    """
    if isinstance(agent, Searcher):
        if options:
            raise ValueError(
                f"the agent is made already, so the options {', '.join(options)} come too late; "
                "give them to the agent"
            )
        return agent
    check_name("agent", agent, AGENTS)
    given = dict(options or {})
    _check_options(agent, given)
    try:
        if agent == "ddpg":
            warm_start = given.pop("warm_start", False)
            return Ddpg(settings=AMCSettings(**given), warm_start=warm_start)
        if isinstance(AGENTS[agent], partial):
            return AGENTS[agent](options=given)
        return AGENTS[agent](**given)
    except TypeError as error:
        raise ValueError(f"agent {agent!r} cannot take {given}: {error}") from error


def _options_of(agent: str) -> tuple[str, ...]:
    maker = AGENTS[agent]
    if isinstance(maker, partial):
        return learner_options(maker.keywords["algorithm"])
    if agent == "ddpg":
        return ("warm_start", *inspect.signature(AMCSettings).parameters)
    return tuple(inspect.signature(maker).parameters)


def _check_options(agent: str, given: Mapping[str, Any]) -> None:
    known = _options_of(agent)
    for name in given:
        if not known:
            raise ValueError(f"agent {agent!r} has no options; {name!r} is given")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(
                f"agent {agent!r} has no option {name!r}; the nearest is {near[0]!r}, choose one "
                f"of {', '.join(known)}"
            )
