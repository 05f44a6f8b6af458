"""Policies between that of the error curves and the largest network that the budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from amc_env import ChannelGroup, ChannelPruningEnv
from amc_env.agents.division import fill_budget, need_budget
from amc_env.agents.episodes import Recorder
from amc_env.agents.error_curves import allocate, cut_to_budget
from amc_env.agents.options import FRACTION, check_values, several
from amc_env.agents.searcher import Searcher

# Rounds in which the parameters of channels are counted.
_ROUNDS = 3
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Blend(Searcher):
    r"""Keeps mixtures of the channels that two simple policies keep; each share is an episode.

    .. math:: m_g = (1 - s)\, e_g + s\, l_g

    ``e`` are the numbers of channels of ``error_curves``, which looks at the error of each layer
    alone, and ``l`` those of the largest network that the budget allows, which looks at no data.
    All ``m`` are multiplied by one factor that spends the budget. Which share is best differs from
    network to network, so a few are tried.

    Attributes:
        shares: The shares ``s`` of the largest network.
    """

    name: ClassVar[str] = "blend"

    shares: Sequence[float] = SHARES

    def __post_init__(self) -> None:
        rule = several(FRACTION, "shares from 0 to 1, such as [0.0, 0.5, 1.0]")
        check_values("agent 'blend'", vars(self), {"shares": rule})
        # A file gives a list, and records that are equal must compare so.
        object.__setattr__(self, "shares", tuple(self.shares))

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        need_budget(recorder.pruning, self.name)
        recorder.play_all_counts(blends(recorder.pruning, self.shares)[:episodes])


def blends(env: ChannelPruningEnv, shares: Sequence[float] = SHARES) -> list[dict[str, int]]:
    """The policies of these shares, as the numbers of channels to keep; each of them once.

    Args:
        env: The environment; it has a budget.
        shares: The shares of the largest network, from 0 to 1.
    """
    ends = allocate(env), largest(env)
    mixed = [_mixed(env, *ends, share) for share in shares]
    return [counts for index, counts in enumerate(mixed) if counts not in mixed[:index]]


def largest(env: ChannelPruningEnv) -> dict[str, int]:
    """The numbers of channels that meet the budget and keep about the most parameters.

    Channels are cut where the fewest parameters are lost for what is saved. A channel's parameters
    depend on the neighbours' channels, so they are counted anew beside the result, and the best of
    a few rounds is taken. ``most_parameters`` finds the most of all by an integer programme, which
    takes long where many groups interact; it finds 29 % more for the digits' small network at 0.3
    of the MACs, and less than 6 % more at 0.5.
    """
    rounds, counts = [], env.keeper.max_counts
    for _ in range(_ROUNDS):
        curves = {
            group.name: np.linspace(0.0, -_parameters(env, group, counts), group.channels)
            for group in env.graph.groups
        }
        counts = fill_budget(env, cut_to_budget(env, env.keeper.max_counts, curves), curves)
        rounds.append(counts)
    return max(rounds, key=lambda counts: env.graph.cost(counts).params)


def _parameters(env: ChannelPruningEnv, group: ChannelGroup, counts: Mapping[str, int]) -> float:
    """How many more parameters there are with all channels of a group than with one."""
    whole, least = (env.graph.cost({**counts, group.name: n}).params for n in (group.channels, 1))
    return float(whole - least)


def _mixed(
    env: ChannelPruningEnv, first: Mapping[str, int], second: Mapping[str, int], share: float
) -> dict[str, int]:
    sparsities = iter(
        [
            1 - ((1 - share) * first[group.name] + share * second[group.name]) / group.channels
            for group in env.graph.groups
        ]
    )
    return env.rehearse(lambda _: next(sparsities), budgeting="scale")
