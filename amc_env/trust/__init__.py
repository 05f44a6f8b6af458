"""How far a reward can be trusted: whether it ranks policies as the networks that are kept do."""

from amc_env.trust.measure import (
    Agreement,
    TriedPolicy,
    Trust,
    best_reward,
    measure,
    predicted,
    tried,
)
from amc_env.trust.policies import spread_policies
from amc_env.trust.ranks import (
    bootstrap_interval,
    partial_bootstrap_interval,
    partial_rank_correlation,
    rank_correlation,
)

__all__ = [
    "Agreement",
    "TriedPolicy",
    "Trust",
    "best_reward",
    "bootstrap_interval",
    "measure",
    "partial_bootstrap_interval",
    "partial_rank_correlation",
    "predicted",
    "rank_correlation",
    "spread_policies",
    "tried",
]
