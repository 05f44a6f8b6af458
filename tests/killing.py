"""Runs in processes of their own, which are killed as soon as their folder says so."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

from amc_env.studies.main import main

# Each run is forked from a process that has imported what takes seconds to import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "amc_env.studies.runner",
        "amc_env.pipeline.stages",
        "amc_env.pipeline.report",
        "amc_env.agents.amc_ddpg",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)

Until = Callable[[Path], bool]


def killed(until: Until, folder: Path, *arguments: str) -> None:
    """Run a command line in another process, and kill it as soon as its folder says so."""
    process = PROCESSES.Process(target=main, args=([*arguments],))
    process.start()
    deadline = time.monotonic() + 120
    while not until(folder) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9, f"the run ended by itself, with {process.exitcode}"
