"""Searchers for pruning policies: reinforcement learners and the methods they are compared with."""

from agents.episodes import Episode, Recorder, SearchResult
from agents.one_call import search
from agents.searcher import Searcher, SearchFailedError
from agents.table import AGENT, AGENTS, make_agent

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
