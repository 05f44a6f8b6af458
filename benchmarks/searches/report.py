"""Tables of searches: accuracies, and differences to one agent with their intervals."""

import statistics
from collections.abc import Callable, Mapping, Sequence

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
        reference: The agent that others are compared with.
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
            _middle(own, lambda one: max(one.rewards)),
        ]
        for mask in images.values():
            for stage in stages:
                self.cells.append(_range([100 * one.right(stage)[mask].mean() for one in own]))
        aim = [one for one in found if one.title == reference]
        for mask in images.values():
            self.cells.append("" if title == reference else _difference(own, aim, mask, stages[-1]))


def reached(found: Sequence[Found], *, ends: Sequence[int] = (25, 50, 100)) -> str:
    """The best reward of every agent after so many episodes, and at the end."""
    heads = ["agent", "reward", *(f"best reward after {end}" for end in ends), "at the end"]
    lines = [heads, ["---", "---", *("--:" for _ in heads[2:])]]
    for line in dict.fromkeys(map(_line, found)):
        own = [one for one in found if _line(one) == line and len(one.rewards) > 1]
        if own:
            cells = [_middle(own, lambda one, end=end: max(one.rewards[:end])) for end in ends]
            lines.append([*line, *cells, _middle(own, lambda one: max(one.rewards))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(one: Found) -> tuple[str, str]:
    return one.title, one.reward


def _middle(found: Sequence[Found], read: Callable[[Found], float]) -> str:
    return f"{statistics.median(map(read, found)):.3f}"


def _range(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def _difference(own: Sequence[Found], reference: Sequence[Found], mask: Mask, stage: str) -> str:
    """Points gained on the reference, paired over the images, of the mean over seeds."""
    if not reference:
        return ""
    gained = _by_image(own, mask, stage) - _by_image(reference, mask, stage)
    return (
        f"{100 * gained.mean():+.2f} ± {100 * _WIDE * gained.std(ddof=1) / len(gained) ** 0.5:.2f}"
    )


def _by_image(found: Sequence[Found], mask: Mask, stage: str) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean([one.right(stage)[mask] for one in found], axis=0)
    return mean
