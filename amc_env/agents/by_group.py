"""What a user gives for groups: one number for all, one for each in order, or some by name."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from amc_env.names import check_name
from amc_env.structure import ChannelGroup

Number = TypeVar("Number", int, float)


def by_group(
    given: Number | Sequence[Number] | Mapping[str, Number],
    groups: Sequence[ChannelGroup],
    *,
    setting: str,
) -> dict[str, Number]:
    """The number of every group that is given one.

    Args:
        given: The numbers.
        groups: All groups of the network in order.
        setting: What the numbers are called where they do not fit.

    Raises:
        ValueError: There is no such group, or there is not one number for each.
    """
    names = [group.name for group in groups]
    if isinstance(given, Mapping):
        for name in given:
            check_name("group", name, names)
        return dict(given)
    if not isinstance(given, Sequence):
        return dict.fromkeys(names, given)
    if len(given) != len(groups):
        raise ValueError(
            f"{setting} has {len(given)} numbers, but the network has {len(groups)} groups: "
            f"{', '.join(f'{g.name} ({g.channels})' for g in groups)}; give one number for each"
        )
    return dict(zip(names, given, strict=True))
