"""The Gymnasium environment: budget, observation, episode and pictures."""

from amc_env.env.budget import Budget, BudgetKeeper
from amc_env.env.environment import Action, ChannelPruningEnv, Observation
from amc_env.env.settings import EnvSettings
from amc_env.env.trial import Outcome, Trial

__all__ = [
    "Action",
    "Budget",
    "BudgetKeeper",
    "ChannelPruningEnv",
    "EnvSettings",
    "Observation",
    "Outcome",
    "Trial",
]
