"""How long networks take."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import evaluating


def latencies_ms(models: Sequence[nn.Module], x: Tensor, *, repeats: int = 15) -> list[float]:
    """Median time of one forward pass of each network on ``x``, in milliseconds.

    The networks take turns, so that other load on the machine slows all of them alike. The first
    pass of each network is not counted, because it also allocates memory and picks kernels.
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
    return [statistics.median(mine) for mine in times]
