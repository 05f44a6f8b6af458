"""Checks of the values that an agent's options may have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Whether a value is right, and what a message says is expected.
Rule = tuple[Callable[[Any], bool], str]


def whole(at_least: int) -> Rule:
    """Accept whole numbers that are not less than ``at_least``."""
    return (
        lambda x: _is_number(x, int, np.integer) and x >= at_least,
        f"a whole number, at least {at_least}",
    )


def real(holds: Callable[[Any], bool], expected: str) -> Rule:
    """Accept numbers for which ``holds`` is true."""
    return lambda x: _is_number(x, int, float, np.integer, np.floating) and holds(x), expected


def several(each: Rule, expected: str) -> Rule:
    """Accept lists with at least one entry, all of which ``each`` accepts."""

    def holds(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        return is_list and all(map(each[0], value))

    return holds, expected


def _is_number(value: Any, *types: type) -> bool:
    """Whether a value is of one of the types; a bool, which Python counts as an int, is not."""
    return isinstance(value, types) and not isinstance(value, bool)


FRACTION = real(lambda x: 0 <= x <= 1, "a number in [0, 1]")
SHARE = real(lambda x: 0 < x <= 1, "a number in (0, 1]")
YES_OR_NO: Rule = (lambda x: isinstance(x, bool), "true or false")


def check_values(owner: str, values: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Refuse a value that has the wrong type or is out of its range.

    Raises:
        ValueError: A value is refused; the message names the owner, the value and what is expected.
    """
    for name, value in values.items():
        if name in rules and not rules[name][0](value):
            raise ValueError(f"{owner}: {name} is {value!r}; it must be {rules[name][1]}")
