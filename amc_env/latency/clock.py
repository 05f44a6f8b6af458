"""How long networks take, one beside the other."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import nn

from amc_env.batches import Batch, call, first_tensor
from amc_env.calibration.hooks import evaluating

Run = Callable[[], object]
Clock = Literal["wall", "processor"]

CLOCKS: Mapping[Clock, Callable[[], float]] = {
    "wall": time.perf_counter,
    # Does not go on while other programs have the processor; of use for a single thread.
    "processor": time.process_time,
}
_MOST_TURNS = 200
# Just below the largest block, 32 MiB, from whose size the GNU C library learns.
_LARGE = 31 * 2**20


class Timing(NamedTuple):
    """The median of several runs in milliseconds, and the range of the middle half of them."""

    median_ms: float
    iqr_ms: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Timing":
        """The timing of these runs."""
        low, middle, high = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(median_ms=middle, iqr_ms=high - low)


def latencies_ms(models: Sequence[nn.Module], x: Batch, *, repeats: int = 15) -> list[float]:
    """Median time of one forward pass of each network on ``x``, in milliseconds.

    The networks take turns, so that other load on the machine slows all of them alike. The first
    pass of each network is not counted, because it also allocates memory and picks kernels.
    """

    def run_of(model: nn.Module) -> Run:
        def run() -> None:
            with evaluating(model):
                call(model, x)

        return run

    settle_allocator()
    times = list(
        _turns([run_of(model) for model in models], repeats + 1, device=first_tensor(x).device)
    )
    return [statistics.median(mine) for mine in zip(*times[1:], strict=True)]


def timings(
    runs: Sequence[Run],
    *,
    seconds: float,
    device: torch.device,
    clock: Clock = "wall",
    at_least: int = 5,
) -> list[Timing]:
    """The timing of each run; they take turns for about so many seconds in all.

    Args:
        runs: What is timed.
        seconds: How long all of it may take, but for the fewest turns.
        device: Where it runs; the clock stops when the device has finished.
        clock: What is read before and after every run.
        at_least: Fewest turns that are counted.
    """
    settle_allocator()
    turns = _turns(runs, 1 + _MOST_TURNS, device=device, clock=clock)
    # The first turn also allocates memory and picks kernels.
    next(turns)
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < at_least or (time.perf_counter() < end and len(times) < _MOST_TURNS):
        times.append(next(turns))
    return [Timing.of(mine) for mine in zip(*times, strict=True)]


def settle_allocator() -> None:
    """Let memory that a forward pass frees stay with the process for the next one.

    The GNU C library gives free memory back to the system when there is more of it than twice
    the largest block that the process has freed, and the next pass takes it anew, a page fault for
    every 4 KiB. Whether it does would depend on what the process did before: MobileNetV2 takes a
    third more time in a fresh process (``benchmarks/page_faults.py``).
    """
    # It is freed at once.
    torch.empty(_LARGE, dtype=torch.uint8)


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _turns(
    runs: Sequence[Run], count: int, *, device: torch.device, clock: Clock = "wall"
) -> Iterator[list[float]]:
    """Of every turn, the milliseconds of each run."""
    for _ in range(count):
        yield [_milliseconds(run, device, CLOCKS[clock]) for run in runs]


def _milliseconds(run: Run, device: torch.device, now: Callable[[], float]) -> float:
    started = now()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (now() - started)
