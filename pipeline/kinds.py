"""The kinds of things that a configuration names, until each lives beside its table."""

from functools import partial

from torch import nn

from agents import AGENTS, Searcher, make_agent
from amc_env.criteria import CRITERIA, Criterion
from amc_env.data.datasets import DATASETS, Dataset
from amc_env.env.budget import Measure
from amc_env.names import Kind
from amc_env.rewards import REWARDS, Reward, make_reward


def _weighted(**weights: float) -> Reward:
    return make_reward(weights)


def _agent(name: str, /, **options: object) -> Searcher:
    return make_agent(name, options)


CRITERION: Kind[Criterion] = Kind(
    title="criterion",
    entry_points="amc_env.criteria",
    makers=CRITERIA,
    is_made=lambda thing: isinstance(thing, Criterion),
)
REWARD: Kind[Reward] = Kind(
    title="reward",
    entry_points="amc_env.rewards",
    makers={**REWARDS, "weighted": _weighted},
    is_made=lambda thing: callable(thing) and not isinstance(thing, type),
)
AGENT: Kind[Searcher] = Kind(
    title="agent",
    entry_points="amc_env.agents",
    makers={name: partial(_agent, name) for name in AGENTS},
    is_made=lambda thing: isinstance(thing, Searcher),
)
DATASET: Kind[Dataset] = Kind(
    title="data set",
    entry_points="amc_env.datasets",
    makers=DATASETS,
    is_made=lambda thing: isinstance(thing, Dataset),
)
MODEL: Kind[nn.Module] = Kind(
    title="model",
    entry_points="amc_env.models",
    makers={},
    is_made=lambda thing: isinstance(thing, nn.Module),
)
MEASURE: Kind[Measure] = Kind(
    title="budget measure", entry_points="amc_env.measures", makers={}, is_made=callable
)
