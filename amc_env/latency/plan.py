"""Which pruned networks show every layer at every pair of its numbers of channels."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from amc_env.latency.surface import LANES
from amc_env.structure import ChannelGraph, ChannelGroup

# For each number of levels, the shares of a group's channels that are rounded to multiples of 16,
# and those that are rounded to other numbers. Processors that compute 8 or 16 numbers at once run
# multiples much faster. The number of levels has to be prime.
_SHARES: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.5, 1.0), (0.25,)),
    5: ((0.25, 1.0), (0.125, 0.5, 0.875)),
    7: ((0.25, 0.5, 1.0), (0.125, 0.375, 0.625, 0.875)),
    11: ((0.25, 0.5, 0.75, 1.0), (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)),
}
LEVELS = tuple(_SHARES)
# Of 16 numbers behind a multiple of 16, this one takes about the mean time of all, where 8 or 16
# channels are computed at once.
_AMID = 11
# Channels behind a multiple of 16 at which whole networks show which multiples are fast.
OFFSETS = (0, 1, 2, 4, 6, 8, 12, 16)
# Mean shares of channels of the networks that are cut as policies are, and how far a group's share
# may lie from the mean.
_MEAN_SHARES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
_SPREAD = 0.25


def designs(graph: ChannelGraph, levels: int) -> Iterator[dict[str, int]]:
    """Numbers of channels of all groups, for one network after the other, the whole one first.

    With ``p`` levels in each group there are ``p * p`` networks, whatever their number of groups:
    every layer between two groups is seen at all pairs of their levels. Groups that share no layer
    may have the same level in all networks, so a colour of the groups that share one is enough.
    Colour 0 has the level ``a``, colour ``k`` the level ``b + (k - 1) a`` modulo ``p``; of any two
    colours below ``p + 1``, every pair of levels then occurs once, as ``p`` is prime (an orthogonal
    array of strength two, Bose 1938).
    """
    colours = _colours(graph)
    for first in reversed(range(levels)):
        for second in reversed(range(levels)):
            level = {
                group.name: _level(colours[group.name], first, second, levels)
                for group in graph.groups
            }
            yield {g.name: counts_of(g, levels)[level[g.name]] for g in graph.groups}


def mixed_designs(graph: ChannelGraph) -> list[dict[str, int]]:
    """The whole network, and networks whose groups are cut differently, as policies are.

    Each has a mean share of channels of its own; a group's share is drawn around it.
    """
    rng = np.random.default_rng(0)
    whole = {group.name: group.channels for group in graph.groups}
    return [whole, *(_mixed(graph, rng, mean) for mean in _MEAN_SHARES)]


def _mixed(graph: ChannelGraph, rng: np.random.Generator, mean: float) -> dict[str, int]:
    shares = rng.uniform(mean - _SPREAD, mean + _SPREAD, size=len(graph.groups))
    return {
        group.name: group.round_count(max(1, round(float(share) * group.channels)))
        for group, share in zip(graph.groups, shares, strict=True)
    }


def offset_designs(graph: ChannelGraph) -> dict[int, dict[str, int]]:
    """By offset, networks whose groups have as many channels more than a multiple of 16.

    Groups with fewer than 32 channels keep all; where all groups do, there is no such network.
    """
    wide = [group for group in graph.groups if group.channels >= 2 * LANES]
    if not wide:
        return {}
    return {offset: {g.name: _behind_multiple(g, offset) for g in wide} for offset in OFFSETS}


def counts_of(group: ChannelGroup, levels: int) -> list[int]:
    """The numbers of channels of a group's levels, ascending."""
    multiples, others = _SHARES[levels]
    wanted = [_multiple(share, group.channels) for share in multiples]
    wanted += [_no_multiple(share, group.channels) for share in others]
    return sorted(group.round_count(max(1, count)) for count in wanted)


def _multiple(share: float, channels: int) -> int:
    if share == 1.0 or channels <= LANES:
        return round(share * channels)
    return max(1, round(share * channels / LANES)) * LANES


def _no_multiple(share: float, channels: int) -> int:
    wanted = int(share * channels)
    if channels < 4 * LANES:
        return wanted // 2 * 2 + 1
    return wanted // LANES * LANES + _AMID


def _behind_multiple(group: ChannelGroup, offset: int) -> int:
    multiple = min(round(group.channels / 4 / LANES), group.channels // LANES - 1)
    return group.round_count(max(1, multiple) * LANES + offset)


def _level(colour: int, first: int, second: int, levels: int) -> int:
    # Counted from the highest level down, so that the first network is the whole one.
    a, b = levels - 1 - first, levels - 1 - second
    down = a if colour == 0 else (b + (colour - 1) * a) % levels
    return levels - 1 - down


def _colours(graph: ChannelGraph) -> dict[str, int]:
    """A colour for every group; both sides of a layer differ, where they are not the same."""
    inputs, outputs = _sides(graph)
    # Groups that one layer reads together, as behind a concatenation, are cut alike.
    side = _united(group.name for group in graph.groups)
    for together in (*inputs.values(), *outputs.values()):
        for name in together:
            _unite_(side, together[0], name)
    beside: dict[str, set[str]] = {}
    for layer in inputs.keys() & outputs.keys():
        one, other = _root(side, inputs[layer][0]), _root(side, outputs[layer][0])
        if one != other:
            beside.setdefault(one, set()).add(other)
            beside.setdefault(other, set()).add(one)
    chosen: dict[str, int] = {}
    for group in graph.groups:
        root = _root(side, group.name)
        if root not in chosen:
            taken = {chosen.get(other) for other in beside.get(root, ())}
            chosen[root] = next(c for c in range(len(side) + 1) if c not in taken)
    return {group.name: chosen[_root(side, group.name)] for group in graph.groups}


def _sides(graph: ChannelGraph) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The groups that each layer reads and makes."""
    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    for group in graph.groups:
        for member in group.consumers:
            inputs.setdefault(member.module, []).append(group.name)
        for member in group.producers:
            outputs.setdefault(member.module, []).append(group.name)
    return inputs, outputs


def _united(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _root(side: Mapping[str, str], name: str) -> str:
    while side[name] != name:
        name = side[name]
    return name


def _unite_(side: dict[str, str], one: str, other: str) -> None:
    side[_root(side, other)] = _root(side, one)


def check_levels(levels: int) -> None:
    """Refuse a number of levels that there is no design for.

    Raises:
        ValueError: There is none.
    """
    if levels not in LEVELS:
        raise ValueError(f"levels is {levels}; give one of {', '.join(map(str, LEVELS))}")
