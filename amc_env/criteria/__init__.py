"""Scores of channels, higher = keep.

``weights`` and ``maps`` hold pure functions, ``by_weights``, ``by_maps`` and ``by_reconstruction``
the criteria that apply functions to groups, ``table`` their names.
"""

from amc_env.criteria.criterion import Criterion, channel_scores
from amc_env.criteria.table import CRITERIA, make_criterion

__all__ = ["CRITERIA", "Criterion", "channel_scores", "make_criterion"]
