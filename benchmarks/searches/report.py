"""Tables of searches: accuracies, and differences to one agent with their intervals."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.searches.search import Found

# Of a normal distribution 95 % lie within so many deviations.
_WIDE = 1.96

# In the order in which a network goes through them; the last is what agents are compared by.
_STAGES = ("repaired", "adjusted")

Mask = NDArray[np.bool_]


def markdown(found: Sequence[Found], images: Mapping[str, Mask], *, reference: str) -> str:
    """A line for every agent and reward: medians over seeds, their range, and paired differences.

    Args:
        found: Searches of one network at one budget.
        images: Which of the test images count, as masks by their names.
        reference: The agent that others are compared with, by the seeds that both have. Of several
            rewards it is paid by that of the first of its searches.
    """
    stages = [stage for stage in _STAGES if all(stage in one.is_right for one in found)]
    heads = [
        "agent", "reward", "seeds", "episodes", "MACs", "parameters", "best reward",
        *(f"{stage}, {name}" for name in images for stage in stages),
        *(f"to {reference}, {name}" for name in images),
    ]  # fmt: skip
    rules = ["---", "---", *("--:" for _ in heads[2:])]
    lines = dict.fromkeys(map(_line, found))
    rows = [_Row(found, line, images, reference, stages) for line in lines]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in (heads, rules, *(r.cells for r in rows))
    )


class _Row:
    """The searches of one agent with one reward."""

    def __init__(
        self,
        found: Sequence[Found],
        line: tuple[str, str],
        images: Mapping[str, Mask],
        reference: str,
        stages: Sequence[str],
    ) -> None:
        own = [one for one in found if _line(one) == line]
        title, reward = line
        self.cells = [
            title,
            reward,
            str(len(own)),
            str(max(len(one.rewards) for one in own)),
            _middle(own, lambda one: one.flops_ratio),
            _middle(own, lambda one: one.params_ratio),
            _middle(own, _best_reward),
        ]
        for mask in images.values():
            for stage in stages:
                self.cells.append(_range([100 * one.right(stage)[mask].mean() for one in own]))
        first = next((_line(one) for one in found if one.title == reference), line)
        aim = {one.seed: one for one in found if _line(one) == first != line}
        pairs = [(one, aim[one.seed]) for one in own if one.seed in aim]
        self.cells += [_difference(pairs, mask, stages[-1]) for mask in images.values()]


def reached(found: Sequence[Found], *, ends: Sequence[int] = (25, 50, 100)) -> str:
    """The best reward of every agent after so many episodes, and at the end."""
    heads = ["agent", "reward", *(f"best reward after {end}" for end in ends), "at the end"]
    lines = [heads, ["---", "---", *("--:" for _ in heads[2:])]]
    for line in dict.fromkeys(map(_line, found)):
        own = [one for one in found if _line(one) == line and len(one.rewards) > 1]
        if own:
            cells = [_middle(own, partial(_best_reward, end=end)) for end in (*ends, None)]
            lines.append([*line, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _best_reward(one: Found, end: int | None = None) -> float:
    """After so many episodes, or after all."""
    return max(one.rewards[:end])


def _line(one: Found) -> tuple[str, str]:
    return one.title, one.reward


def _middle(found: Sequence[Found], read: Callable[[Found], float]) -> str:
    return f"{statistics.median(map(read, found)):.3f}"


def _range(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def _difference(pairs: Sequence[tuple[Found, Found]], mask: Mask, stage: str) -> str:
    """Points that the first ones gain on the second, paired over images, in the mean over seeds."""
    if not pairs:
        return ""
    by_seed = [own.right(stage)[mask] * 1.0 - aim.right(stage)[mask] for own, aim in pairs]
    gained: NDArray[np.float64] = np.mean(by_seed, axis=0)
    half = _WIDE * gained.std(ddof=1) / len(gained) ** 0.5
    return f"{100 * gained.mean():+.2f} ± {100 * half:.2f}"
