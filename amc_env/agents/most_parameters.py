"""The largest network that a budget allows: a baseline that reads neither data nor errors."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from amc_env.agents.division import need_budget
from amc_env.agents.episodes import Recorder
from amc_env.agents.milp import Programme
from amc_env.agents.searcher import Searcher


@dataclass(frozen=True, kw_only=True)
class MostParameters(Searcher):
    r"""Keeps as many parameters as the budget allows, in one episode.

    .. math:: \max_m P(m) \quad \text{within the budget}

    ``P`` is the number of parameters of the network whose groups keep ``m`` channels. Networks of
    equal multiply-accumulates differ much in their parameters, and larger ones tend to be the more
    accurate, so a reward has to beat this to be more than a measure of size.
    """

    name: ClassVar[str] = "most_parameters"
    is_single: ClassVar[bool] = True

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        need_budget(recorder.pruning, self.name)
        recorder.play_counts(Programme(recorder.pruning).largest())
