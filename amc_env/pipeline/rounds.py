"""Pruning in rounds: its settings, and what the rounds leave in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from amc_env.files import write_text
from amc_env.training import TrainingSettings

ITERATIONS_FILE = "iterations.json"

Steps = Sequence[float | Sequence[float] | Mapping[str, float]]


def _expecting(what: str) -> WrapValidator:
    """Says what is expected, where pydantic would name its types."""

    def check(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(given)
        except ValidationError as error:
            raise ValueError(f"give a list with {what} for every round") from error

    return WrapValidator(check)


_Counts = Annotated[
    tuple[tuple[int, ...] | Mapping[str, int], ...],
    _expecting("[N, ...] for all groups in order, or {GROUP: N, ...},"),
]
_Rates = Annotated[
    tuple[float | tuple[float, ...] | Mapping[str, float], ...],
    _expecting("a share for all groups, [SHARE, ...] in order, or {GROUP: SHARE, ...},"),
]


@dataclass(frozen=True, kw_only=True)
class IterativeSettings:
    """How a policy's numbers of channels are reached in rounds of ranking, pruning and training.

    Attributes:
        rounds: How many; 0 for pruning at once.
        counts: For the first rounds, the channels that are left after each: a number for every
            group in order, or numbers by group.
        rates: For the first rounds, the shares of the channels that a group still has which go in
            each, but none that the policy keeps: one for all groups, one for each in order, or
            by group.
        training: The training in each round.
    """

    rounds: int = 0
    counts: _Counts | None = None
    rates: _Rates | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds is {self.rounds}; give 0 for none, or the number of rounds")
        if self.counts is not None and self.rates is not None:
            raise ValueError("counts and rates are both given; give one of them")
        setting, steps = self.given
        if len(steps) > self.rounds:
            raise ValueError(
                f"{setting} has numbers for {len(steps)} rounds, and rounds is {self.rounds}; give "
                f"rounds={len(steps)} or fewer numbers"
            )

    @property
    def given(self) -> tuple[str, Steps]:
        """The setting that gives numbers for the first rounds, and these."""
        if self.counts is not None:
            return "counts", self.counts
        return "rates", self.rates or ()


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
