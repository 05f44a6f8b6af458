"""What runs of studies do beside pruning a network, and how it is shown: named functions."""

from collections.abc import Mapping

from amc_env.studies.works.disorder import DISORDER
from amc_env.studies.works.distributions import DISTRIBUTIONS
from amc_env.studies.works.map_entropy import MAP_ENTROPY
from amc_env.studies.works.validity import VALIDITY
from amc_env.studies.works.work import Work, work_on

# A study of any other work prunes networks and has a table of their accuracies.
WORKS: Mapping[str, Work] = {
    "disorder": DISORDER,
    "distributions": DISTRIBUTIONS,
    "map_entropy": MAP_ENTROPY,
    "validity": VALIDITY,
}

__all__ = ["WORKS", "Work", "work_on"]
