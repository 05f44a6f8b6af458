"""What is asked for results that are expensive or depend on a clock, before they are computed."""

from collections.abc import Callable, Container
from typing import Any

Compute = Callable[[], Any]

# Takes what a result is of, and computes it. A memory that has the result already gives it back
# instead. Results are what JSON can hold; a memory gives floating-point numbers back exactly.
Memory = Callable[[str, Compute], Any]


def forgetful(_: str, compute: Compute) -> Any:
    """A memory without a past: every result is computed."""
    return compute()


def has(memory: object, what: str) -> bool:
    """Whether a memory has a result already; one that cannot tell says no."""
    return isinstance(memory, Container) and what in memory
