"""Networks against the clock."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import evaluating


def latencies_ms(models: Sequence[nn.Module], x: Tensor, *, repeats: int = 15) -> list[float]:
    """Median time of one run of each network on ``x``, in milliseconds.

    The networks take turns, so that whatever else the machine does meets them all alike; each runs
    once more before, which does not count.
    """
    times: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, mine in zip(models, times, strict=True):
            with evaluating(model):
                started = time.perf_counter()
                model(x)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
            if turn:
                mine.append(1e3 * (time.perf_counter() - started))
    return [sorted(mine)[len(mine) // 2] for mine in times]
