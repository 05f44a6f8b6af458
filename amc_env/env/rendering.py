"""Pictures of a half-decided network: a table of text, and bars."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from amc_env.structure import ChannelGraph

_KEPT, _CUT, _OPEN, _PAPER = (38, 107, 178), (226, 178, 122), (205, 205, 205), (255, 255, 255)
_BAR, _GAP, _HEIGHT, _MARGIN = 14, 4, 200, 12


def tabulate(graph: ChannelGraph, decided: Mapping[str, int]) -> str:
    """One line for each group: its channels, how many stay, and the cost so far."""
    width = max(len(group.name) for group in graph.groups)
    cost, full = graph.cost(decided), graph.cost()
    lines = [f"{'group':<{width}}  channels  kept  sparsity"]
    for group in graph.groups:
        count = decided.get(group.name)
        kept = f"{count:>4}  {1 - count / group.channels:8.3f}" if count else "   -         -"
        lines.append(f"{group.name:<{width}}  {group.channels:>8}  {kept}")
    lines.append(
        f"FLOPs (multiply-accumulates) {cost.flops / full.flops:.3f} of {full.flops}, "
        f"parameters {cost.params / full.params:.3f} of {full.params}"
    )
    return "\n".join(lines)


def draw(graph: ChannelGraph, decided: Mapping[str, int]) -> NDArray[np.uint8]:
    """One bar for each group, as tall as it has channels: kept, cut, or not decided yet.

    The last bar, behind a gap, is the cost: what is left of the FLOPs.
    """
    n = len(graph.groups)
    width = 2 * _MARGIN + (n + 2) * (_BAR + _GAP)
    image = np.full((_HEIGHT + 2 * _MARGIN, width, 3), _PAPER, dtype=np.uint8)
    widest = max(group.channels for group in graph.groups)
    for index, group in enumerate(graph.groups):
        # Square roots, so that narrow layers are seen beside wide ones.
        height = max(4, round(_HEIGHT * (group.channels / widest) ** 0.5))
        if group.name not in decided:
            _bar(image, index, height, _OPEN)
            continue
        _bar(image, index, height, _CUT)
        _bar(image, index, round(height * decided[group.name] / group.channels), _KEPT)
    share = graph.cost(decided).flops / graph.cost().flops
    _bar(image, n + 1, _HEIGHT, _CUT)
    _bar(image, n + 1, round(_HEIGHT * share), _KEPT)
    return image


def _bar(image: NDArray[np.uint8], index: int, height: int, colour: tuple[int, int, int]) -> None:
    left = _MARGIN + index * (_BAR + _GAP)
    bottom = image.shape[0] - _MARGIN
    image[bottom - height : bottom, left : left + _BAR] = colour
