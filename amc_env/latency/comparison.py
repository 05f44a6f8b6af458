"""The latencies of two networks side by side, as a run reports them at its end."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import floor, log10

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from amc_env.latency.clock import Timing, threads_of_torch, timings
from amc_env.latency.runtimes import Conditions, Runtime, all_threads, is_installed, runner
from amc_env.latency.table import LatencyTable
from amc_env.structure import Cost

_BATCHES = (1, 64)
# Seconds under each of the conditions, of which there are at most eight; slow networks take longer.
_SECONDS = 0.15
_FEWEST_TURNS = 3


class Compared(BaseModel):
    """The latencies of the original and the pruned network under one set of conditions.

    Attributes:
        runtime: What ran them.
        batch: Samples in one forward pass.
        threads: Threads of the runtime.
        original: Of the original network: the median and the range of the middle half, in
            milliseconds.
        pruned: Of the pruned network.
        predicted: Of both, what a table that was measured under these conditions predicts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: Runtime
    batch: int
    threads: int
    original: Timing
    pruned: Timing
    predicted: tuple[float, float] | None = None


def compare(
    networks: Sequence[nn.Module], sample: Tensor, *, runtime: Runtime
) -> Iterator[Compared]:
    """Time two networks for one sample and for 64, on one thread and on all.

    The networks take turns. On a graphics card the threads are left as they are.

    Args:
        networks: The original and the pruned network, in evaluation mode.
        sample: A batch of one sample, on the device of the networks; its values do not matter.
        runtime: What runs them.

    Raises:
        ValueError: The networks cannot be run so.
    """
    every = (1, all_threads()) if sample.device.type == "cpu" else (torch.get_num_threads(),)
    for batch, threads in product(_BATCHES, dict.fromkeys(every)):
        inputs = sample.expand(batch, *sample.shape[1:]).contiguous()
        with threads_of_torch(threads):
            runs = [runner(n, [inputs], runtime=runtime, threads=threads) for n in networks]
            original, pruned = timings(
                runs, seconds=_SECONDS, device=sample.device, at_least=_FEWEST_TURNS
            )
        yield Compared(
            runtime=runtime, batch=batch, threads=threads, original=original, pruned=pruned
        )


def runtimes_for(device: torch.device) -> list[Runtime]:
    """The runtimes that networks on a device can be timed with, as far as they are installed."""
    has_onnx = device.type == "cpu" and is_installed("onnxruntime")
    return ["torch", "onnxruntime"] if has_onnx else ["torch"]


def with_prediction(
    found: Sequence[Compared], table: LatencyTable, costs: tuple[Cost, Cost], device: torch.device
) -> list[Compared]:
    """The latencies with the table's predictions beside those that it was measured for.

    Args:
        found: What was measured.
        table: The table.
        costs: Costs of the original and the pruned network.
        device: Where they ran.
    """
    original, pruned = (table.milliseconds(cost) for cost in costs)
    return [
        one.model_copy(update={"predicted": (original, pruned)})
        if _is_under(one, table.conditions, device)
        else one
        for one in found
    ]


def cells(found: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table for people, narrow enough for a terminal."""
    is_predicted = any(one.predicted for one in found)
    header = ["runtime, batch, threads", "original ms", "pruned ms", "ratio"]
    rows = [
        [
            f"{one.runtime}, {one.batch}, {one.threads}",
            _shown(one.original),
            _shown(one.pruned),
            f"{one.pruned.median_ms / one.original.median_ms:.3f}",
            *([_predicted(one.predicted)] if is_predicted else []),
        ]
        for one in found
    ]
    return header + ["predicted"] * is_predicted, rows


def _is_under(one: Compared, conditions: Conditions, device: torch.device) -> bool:
    mine = (one.runtime, one.batch, device.type)
    theirs = (conditions.runtime, conditions.batch, torch.device(conditions.device).type)
    return mine == theirs and (device.type != "cpu" or one.threads == conditions.threads)


def _predicted(given: tuple[float, float] | None) -> str:
    """The predicted milliseconds of the pruned network, and their ratio to the original's."""
    if given is None:
        return ""
    original, pruned = given
    return f"{pruned:.3g} ({pruned / original:.3f})"


def _shown(timing: Timing) -> str:
    """Median and spread with the same decimals, three digits of the median."""
    whole_digits = floor(log10(timing.median_ms)) + 1 if timing.median_ms > 0 else 1
    decimals = max(0, 3 - whole_digits)
    return f"{timing.median_ms:.{decimals}f} \u00b1{timing.iqr_ms / 2:.{decimals}f}"
