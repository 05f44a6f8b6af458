"""How many channels every group keeps after each round of pruning."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from amc_env import ChannelGraph, ChannelGroup
from amc_env.agents.by_group import by_group
from amc_env.pipeline.rounds import IterativeSettings


def counts_by_round(
    graph: ChannelGraph, target: Mapping[str, int], *, settings: IterativeSettings
) -> list[dict[str, int]]:
    r"""How many channels each group keeps after each round; after the last, the target.

    Where the settings give nothing for a group, it loses the same share of the channels that it
    still has in every round that is left, as far as whole channels allow:

    .. math:: n_r = n_{r-1} \, (n_R / n_{r-1})^{1 / (R - r + 1)}

    ``n_r`` is its number after round ``r``, ``n_0`` its width, ``n_R`` its target and ``R`` the
    number of rounds.

    Args:
        graph: The structure of the network.
        target: The numbers of the policy; groups that it leaves out stay whole.
        settings: The number of rounds, and what they give.

    Raises:
        ValueError: What is given does not lead to the target, or fits no group.
    """
    given = _given(graph, settings)
    courses = {
        group.name: _course(
            group,
            [numbers.get(group.name) for numbers in given],
            target=target.get(group.name, group.channels),
            are_rates=settings.rates is not None,
        )
        for group in graph.groups
    }
    return [{name: c[number] for name, c in courses.items()} for number in range(settings.rounds)]


def check_given(graph: ChannelGraph, settings: IterativeSettings) -> None:
    """Refuse what fits no policy, before one is known.

    Raises:
        ValueError: A group does not exist or cannot have such a number.
    """
    given = _given(graph, settings)
    for group in graph.groups:
        numbers = [n[group.name] for n in given if group.name in n]
        if settings.rates is not None:
            _check_rates(group, numbers)
        else:
            _check_counts(group, numbers)


def _given(graph: ChannelGraph, settings: IterativeSettings) -> list[dict[str, float]]:
    """What every round gives, by group."""
    setting, steps = settings.given
    found = [
        by_group(step, graph.groups, setting=f"round {number} of iterative.{setting}")
        for number, step in enumerate(steps, 1)
    ]
    return found + [{}] * (settings.rounds - len(found))


def _course(
    group: ChannelGroup, given: Sequence[float | None], *, target: int, are_rates: bool
) -> list[int]:
    """How many channels a group keeps after each round."""
    course, exact = [group.channels], float(group.channels)
    for done, number in enumerate(given):
        if number is None:
            exact *= (target / exact) ** (1 / (len(given) - done))
        elif are_rates:
            # A share goes in every round, until a group has as few channels as the policy gives it.
            exact = max(target, group.round_count((1 - number) * course[-1]))
        else:
            exact = number
        course.append(group.round_count(exact))
    if course[-1] != target or any(after > before for before, after in pairwise(course)):
        raise ValueError(
            f"group {group.name!r} would have {', '.join(map(str, course))} channels from round to "
            f"round, and the policy keeps {target}; give numbers that never rise and end at "
            f"{target}, or nothing for the last round"
        )
    return course[1:]


def _check_counts(group: ChannelGroup, counts: Sequence[float]) -> None:
    wrong = next((n for n in counts if n not in group.counts), None)
    if wrong is not None:
        raise ValueError(
            f"iterative.counts gives group {group.name!r} {wrong} of {group.channels} channels; "
            f"give one of {', '.join(map(str, group.counts))}"
        )
    if any(after > before for before, after in pairwise(counts)):
        raise ValueError(
            f"iterative.counts gives group {group.name!r} {', '.join(map(str, counts))} channels; "
            "rounds only remove channels, so give numbers that never rise"
        )


def _check_rates(group: ChannelGroup, rates: Sequence[float]) -> None:
    wrong = next((rate for rate in rates if not 0 <= rate < 1), None)
    if wrong is not None:
        raise ValueError(
            f"iterative.rates removes {wrong} of the channels of group {group.name!r} in a round; "
            "give shares from 0 to below 1"
        )
