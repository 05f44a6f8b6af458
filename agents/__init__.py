"""Learners and searchers. They stand on ``amc_env``, which knows nothing of them."""

from agents.episodes import Episode, SearchResult
from agents.one_call import search
from agents.searcher import Searcher
from agents.table import AGENTS, make_agent

__all__ = ["AGENTS", "Episode", "SearchResult", "Searcher", "make_agent", "search"]
