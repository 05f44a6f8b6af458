"""Searchers for pruning policies: reinforcement learners and the methods they are compared with."""

from amc_env.agents.episodes import Episode, Recorder, SearchResult
from amc_env.agents.one_call import search
from amc_env.agents.searcher import Searcher, SearchFailedError
from amc_env.agents.table import AGENT, AGENTS, make_agent

__all__ = [
    "AGENT",
    "AGENTS",
    "Episode",
    "Recorder",
    "SearchFailedError",
    "SearchResult",
    "Searcher",
    "make_agent",
    "search",
]
