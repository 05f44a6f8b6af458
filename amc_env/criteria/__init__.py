"""Criteria: scores of the channels of a group. A channel with a higher score is kept longer.

``weights`` and ``maps`` contain the scores as functions of tensors. ``by_weights``, ``by_maps`` and
``by_reconstruction`` contain the criteria, which apply such functions to groups of channels, and
``table`` contains their names.
"""

from amc_env.criteria.criterion import Criterion, channel_scores, scores_by_group
from amc_env.criteria.table import CRITERIA, CRITERION, make_criterion

__all__ = [
    "CRITERIA",
    "CRITERION",
    "Criterion",
    "channel_scores",
    "make_criterion",
    "scores_by_group",
]
