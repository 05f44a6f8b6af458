"""Page faults and milliseconds of a forward pass, before and after a large tensor was freed.

The C library of Linux gives memory back to the system whenever enough of it is free, and what is
enough follows from the largest block that a process has freed until then. A fresh process may give
back and take anew the memory for a network's maps in every forward pass.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch

from amc_env.models import find_model

TURNS = 21
# Just below the largest block, 32 MiB, that the C library takes as a measure.
LARGE = 31 * 2**20


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mobilenet_v2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = find_model(options.model)
    if found.input_shape is None:
        raise SystemExit(f"{options.model} does not say what it reads")
    x = torch.randn(1, *found.input_shape)
    model = found.model.eval()
    show("fresh process", lambda: model(x))
    torch.empty(LARGE, dtype=torch.uint8).fill_(0)
    show("after a tensor of 31 MiB was freed", lambda: model(x))


@torch.inference_mode()
def show(what: str, run: Callable[[], object]) -> None:
    """Run, and print the medians."""
    turns = [measured(run) for _ in range(TURNS)]
    faults, times = (statistics.median(each) for each in zip(*turns[1:], strict=True))
    print(f"{what}: {faults:.0f} page faults, {times:.2f} ms of the processor", flush=True)


def measured(run: Callable[[], object]) -> tuple[int, float]:
    """The page faults and the milliseconds of one run."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    run()
    took = 1e3 * (time.process_time() - started)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, took


if __name__ == "__main__":
    main()
