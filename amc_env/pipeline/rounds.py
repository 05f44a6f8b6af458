"""Pruning in rounds: how many channels stay after each, and what the rounds leave in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from amc_env import ChannelGraph, ChannelGroup
from amc_env.files import write_text
from amc_env.training import TrainingSettings

ITERATIONS_FILE = "iterations.json"


@dataclass(frozen=True, kw_only=True)
class IterativeSettings:
    """How a policy's numbers of channels are reached in rounds of ranking, pruning and training.

    Attributes:
        rounds: How many; 0 for pruning at once.
        training: The training in each round.
    """

    rounds: int = 0
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds is {self.rounds}; give 0 for none, or the number of rounds")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupScores(_Record):
    """The criterion's scores of the channels of a group that are left.

    Attributes:
        name: The group's name.
        channels: Their indices in the original network, ascending.
        scores: The score of each.
    """

    name: str
    channels: tuple[int, ...]
    scores: tuple[float, ...]


class Iteration(_Record):
    """The network after so many rounds.

    Attributes:
        number: How many rounds led to it; 0 for the original network.
        macs: Its multiply-accumulates for one sample.
        held_out_accuracy: Its accuracy, or the metric of another task, on training images that
            nothing was fitted to.
        groups: Its channels, ranked as it is now.
    """

    number: int
    macs: int
    held_out_accuracy: float
    groups: tuple[GroupScores, ...]


class Iterations(_Record):
    """The original network, and the network after each round."""

    criterion: str
    iterations: tuple[Iteration, ...]

    def save(self, folder: Path) -> None:
        """Write the file of a run's folder, atomically."""
        write_text(folder / ITERATIONS_FILE, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Iterations":
        """Read the file of a run's folder.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It holds something else.
        """
        return cls.model_validate_json((folder / ITERATIONS_FILE).read_bytes())


def counts_by_round(
    graph: ChannelGraph, target: Mapping[str, int], *, rounds: int
) -> list[dict[str, int]]:
    r"""How many channels each group keeps after each round; after the last, the target.

    .. math:: n_r = n_0 \, (n_R / n_0)^{r / R}

    ``n_0`` is the width of the group, ``n_R`` its target, ``R`` the number of rounds. In every
    round a group thus loses the same share of the channels that it still has, as far as whole
    channels allow.
    """
    return [
        {group.name: _after(group, target, done / rounds) for group in graph.groups}
        for done in range(1, rounds + 1)
    ]


def _after(group: ChannelGroup, target: Mapping[str, int], done: float) -> int:
    kept = target.get(group.name, group.channels)
    return group.round_count(group.channels * (kept / group.channels) ** done)
