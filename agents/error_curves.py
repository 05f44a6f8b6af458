"""A search without episodes: the budget is dealt out by what the repair itself says."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from agents.episodes import Recorder
from agents.searcher import Searcher
from amc_env import ChannelGroup, ChannelPruningEnv

# A group goes from all channels to its least in no more steps than this.
_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class ErrorCurves(Searcher):
    r"""Cuts where the repaired layers' error grows least for the cost that is saved.

    Every group has a curve of relative residual against channels kept, from the factorisation.
    From the whole network on, the cut with the smallest

    .. math:: \frac{E_g(m) - E_g(m')}{C(m) - C(m')}

    is taken until the budget is met: ``E`` is the squared relative residual, summed over the layers
    that read group ``g`` and made convex, and ``C`` what the network costs, relative to the limits
    of the budget and summed over those not met yet. For convex curves and a cost that adds up this
    is the Lagrangian optimum. The one episode is to report the result. Without a budget nothing is
    cut.
    """

    name: ClassVar[str] = "error_curves"
    is_single: ClassVar[bool] = True

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        recorder.play_counts(allocate(recorder.pruning))


def allocate(env: ChannelPruningEnv) -> dict[str, int]:
    """How many channels each group keeps, dealt out by the error curves."""
    graph = env.graph
    ladders = {group.name: _ladder(env, group) for group in graph.groups}
    curves = {group.name: _convex_errors(env, group) for group in graph.groups}
    steps = dict.fromkeys(ladders, 0)
    counts = {name: ladder[0] for name, ladder in ladders.items()}
    while not env.keeper.fits(counts):
        now = env.keeper.used(counts)
        best, best_price = "", float("inf")
        for name, ladder in ladders.items():
            if steps[name] + 1 == len(ladder):
                continue
            fewer = ladder[steps[name] + 1]
            then = env.keeper.used({**counts, name: fewer})
            saved = sum(a - b for a, b in zip(now, then, strict=True) if a > 1.0)
            lost = curves[name][fewer - 1] - curves[name][counts[name] - 1]
            price = float(lost) / saved if saved > 0.0 else sys.float_info.max
            if price < best_price:
                best, best_price = name, price
        steps[best] += 1
        counts[best] = ladders[best][steps[best]]
    return counts


def _ladder(env: ChannelPruningEnv, group: ChannelGroup) -> list[int]:
    """Numbers of channels to step through, from all to the least."""
    allowed = list(reversed(env.keeper.between(group)))
    stride = max(1, len(allowed) // _STEPS)
    steps = allowed[::stride]
    return steps if steps[-1] == allowed[-1] else [*steps, allowed[-1]]


def _convex_errors(env: ChannelPruningEnv, group: ChannelGroup) -> NDArray[np.float64]:
    """The lower convex hull of the squared residuals for 1, 2, ... channels kept."""
    try:
        each = list(env.pruner.plan.layer_errors(group.name).values())
        errors: NDArray[np.float64] = torch.stack(each).square().sum(0).numpy()
    except ValueError:
        # Nothing that reads the group is repaired, so nothing is known: all channels matter alike.
        errors = np.linspace(1.0, 0.0, group.channels)
    hull: list[int] = []
    for point in range(len(errors)):
        while len(hull) > 1 and _is_above(errors, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    convex: NDArray[np.float64] = np.interp(np.arange(len(errors)), hull, errors[hull])
    return convex


def _is_above(errors: NDArray[np.float64], left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line between the others."""
    along = (errors[right] - errors[left]) * (middle - left) / (right - left)
    return bool(errors[middle] >= errors[left] + along)
