"""Given numbers of channels, as published configurations list them; nothing is searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from amc_env.agents.by_group import by_group
from amc_env.agents.episodes import Recorder
from amc_env.agents.searcher import Searcher
from amc_env.structure import ChannelGroup


@dataclass(frozen=True, kw_only=True)
class OneShot(Searcher):
    """Prunes every group once, to the number of channels that is given for it.

    ``counts`` or ``widths``, if one of them is given, takes the place of ``rates``. Groups that a
    mapping leaves out stay whole.

    Attributes:
        rates: Shares of the channels that go: one for all groups, one for each in order, or by
            group; what stays is rounded to whole channels.
        counts: Channels that stay: one number for each group in order, or numbers by group.
        widths: Channels that stay in every group of a width, by that width, as published
            configurations of ResNets name them: 16: 8, 32: 15, 64: 30.
    """

    name: ClassVar[str] = "one_shot"
    is_single: ClassVar[bool] = True

    rates: float | Sequence[float] | Mapping[str, float] = 0.5
    counts: Sequence[int] | Mapping[str, int] | None = None
    widths: Mapping[int, int] | None = None

    def __post_init__(self) -> None:
        if self.counts is not None and self.widths is not None:
            raise ValueError("agent 'one_shot' is given counts and widths; give one of them")

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        groups = recorder.pruning.graph.groups
        wanted = self._wanted(groups)
        for group in groups:
            if not 1 <= wanted[group.name] <= group.channels:
                raise ValueError(
                    f"group {group.name!r} is to keep {wanted[group.name]} channels; give 1 to "
                    f"{group.channels}"
                )
        found = recorder.play_counts(wanted).counts
        other = next((name for name in wanted if found[name] != wanted[name]), None)
        if other is not None:
            raise ValueError(
                f"group {other!r} is to keep {wanted[other]} channels, but the bounds and the "
                f"budget lead to {found[other]}; give a smaller env.min_keep, env.round_to=1, or "
                "budget=none"
            )

    def _wanted(self, groups: Sequence[ChannelGroup]) -> dict[str, int]:
        """How many channels every group is to keep."""
        whole = {group.name: group.channels for group in groups}
        if self.widths is not None:
            return {name: self.widths.get(width, width) for name, width in whole.items()}
        if self.counts is not None:
            return whole | by_group(self.counts, groups, setting="counts")
        rates = by_group(self.rates, groups, setting="rates")
        return whole | {name: round((1 - rate) * whole[name]) for name, rate in rates.items()}
