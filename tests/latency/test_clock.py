import platform
import subprocess
import sys
import time

import pytest
import torch
from pruning import samples, tiny
from torch import Tensor, nn

from amc_env.latency.clock import Timing, latencies_ms, timings


class Sleeper(nn.Module):
    """Takes these seconds, one call after the other."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.seconds = list(seconds)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds.pop(0))
        return x


def test_a_latency_is_the_median_in_milliseconds_without_the_first_run() -> None:
    x = torch.zeros(1)
    slow, fast = Sleeper(0.3, 0.02, 0.2, 0.04), Sleeper(0.2, 0.0, 0.0, 0.3)
    first, second = latencies_ms([slow, fast], x, repeats=3)
    assert 40 <= first < 150
    assert 0 <= second < 40


def test_of_an_even_number_of_runs_the_median_lies_between() -> None:
    (found,) = latencies_ms([Sleeper(0.0, 0.0, 0.4)], torch.zeros(1), repeats=2)
    assert 200 <= found < 380


def test_latencies_are_measured_in_evaluation_mode_which_is_put_back() -> None:
    model = tiny().train()
    before = model.norm.running_mean.clone()  # type: ignore[union-attr]
    assert len(latencies_ms([model, tiny()], samples(4).inputs, repeats=3)) == 2
    assert model.training
    assert torch.equal(model.norm.running_mean, before)  # type: ignore[arg-type]


def test_a_timing_has_the_median_and_the_range_of_the_middle_half() -> None:
    # Of 1, 2, 3, 4 and 9, half lies between 2 and 4.
    assert Timing.of([9.0, 2.0, 4.0, 1.0, 3.0]) == Timing(median_ms=3.0, iqr_ms=2.0)


def test_runs_take_turns_until_the_time_is_over() -> None:
    order: list[str] = []

    def run(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    found = timings(
        [lambda: run("slow", 0.02), lambda: run("fast", 0.0)],
        seconds=0.2,
        device=torch.device("cpu"),
        at_least=3,
    )
    assert order == ["slow", "fast"] * (len(order) // 2)
    # The first turn is not counted.
    assert 1 + 3 <= len(order) // 2 <= 1 + 10
    assert found[0].median_ms >= 20 > found[1].median_ms


def test_the_processor_s_clock_does_not_count_waiting() -> None:
    (found,) = timings(
        [lambda: time.sleep(0.03)],
        seconds=0.0,
        device=torch.device("cpu"),
        clock="processor",
        at_least=3,
    )
    assert found.median_ms == pytest.approx(0.0, abs=10)


# Page faults of making and freeing some maps, as a forward pass does, before and after.
FAULTS = """
import resource
import torch
from amc_env.latency.clock import settle_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.empty(2**20).fill_(0.0) for _ in range(6)]
    del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = min(faults() for _ in range(5))
settle_allocator()
faults()
print(first, min(faults() for _ in range(5)))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the allocator of another C library learns no sizes"
)
def test_a_settled_process_keeps_the_memory_of_its_maps() -> None:
    # Any process that has run something large is settled, so they have to be fresh ones; and what
    # an import has freed may settle one by chance.
    found = [faults_of_a_process() for _ in range(5)]
    # Six maps of 4 MiB have 6144 pages of 4 KiB.
    assert max(before for before, _ in found) > 1000
    assert max(after for _, after in found) < 100


def faults_of_a_process() -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    return before, after
