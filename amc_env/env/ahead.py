"""Candidates that are evaluated before the episodes that ask for their outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amc_env.memory import Compute


@dataclass(frozen=True, kw_only=True)
class Request:
    """One candidate, and how it is going to be evaluated.

    Attributes:
        counts: How many channels each group keeps.
        question: What a memory is asked for first when the candidate is evaluated.
        samples: How many validation samples are evaluated; all if None.
        floor: The reward that a race is about; None if it is no race.
        seen: How many samples were evaluated before.
    """

    counts: Mapping[str, int]
    question: str
    samples: int | None = None
    floor: float | None = None
    seen: int = 0


class Ahead:
    """Evaluates nothing ahead. Workers take its place; what they know is given back in its turn.

    A result is asked for as of a memory: by what it is of, with what computes it. So whoever plays
    episodes asks for the same results in the same order, whether anything is evaluated ahead.
    """

    is_on: bool = False

    def expect(self, requests: Sequence[Request]) -> None:
        """Begin to evaluate candidates, which will be asked for in this order."""

    def drop(self) -> None:
        """Leave what is expected and not begun yet."""

    def __call__(self, _what: str, compute: Compute, /) -> Any:
        """A result that was computed ahead, or else computed now."""
        return compute()
