"""The processes of workers on a Ray cluster: they share what they work with in its object store.

Ray keeps one copy of it on each machine, in memory that all of its workers read.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from amc_env.agents.packing import Packed, pack, unpack
from amc_env.agents.processes import Engine, Process, Start, Work, told
from amc_env.extras import need

if TYPE_CHECKING:
    import ray

# Where a cluster is named that Ray's own commands use too.
_ADDRESS = "RAY_ADDRESS"


class RayEngine(Engine):
    """Processes of a Ray cluster: the one that ``RAY_ADDRESS`` names, or else a new one here.

    Where the program is connected to a cluster already, they are of that one.

    Raises:
        ValueError: Ray is not installed.
    """

    def __init__(self) -> None:
        need("engine 'ray'", "ray", extra="ray")
        self._is_connected_here = False

    @override
    def open_(self, work: Work, *, workers: int, threads: int) -> Start:
        import ray

        packed = pack(work)
        if not ray.is_initialized():
            _connect(cpus=workers * threads)
            self._is_connected_here = True
        _check_room(ray.cluster_resources().get("CPU", 0.0), workers=workers, threads=threads)
        return partial(RayProcess, ray.put(packed), threads)

    @override
    def close_(self) -> None:
        import ray

        if self._is_connected_here:
            ray.shutdown()


class RayProcess(Process):
    """A process of a Ray cluster.

    Args:
        shared: Where the cluster has its work.
        threads: Threads of PyTorch in the process.
    """

    def __init__(self, shared: "ray.ObjectRef[Packed]", threads: int) -> None:
        self._shared, self._threads = shared, threads
        # A thread of this program waits for the process. What it does then may start another, which
        # Ray's own threads must not wait for.
        self._waiting = ThreadPoolExecutor(max_workers=1)
        self._desk = self._started()

    @override
    def submit(self, asked: object) -> "Future[Any]":
        return self._waiting.submit(self._found, asked)

    @override
    def is_death(self, error: BaseException) -> bool:
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

        return isinstance(error, (RayActorError, NodeDiedError, OutOfMemoryError))

    @override
    def restart_(self) -> None:
        self._end_()
        self._desk = self._started()

    @override
    def close_(self) -> None:
        self._end_()
        self._waiting.shutdown(wait=True)

    def _started(self) -> Any:
        import ray

        desk = ray.remote(_Desk)
        # The machines take turns: nothing is gained where workers crowd on one.
        options = {"num_cpus": self._threads, "scheduling_strategy": "SPREAD"}
        return desk.options(**options).remote(self._shared, self._threads, sys.path)

    def _end_(self) -> None:
        import ray

        ray.kill(self._desk)

    def _found(self, asked: object) -> Any:
        import ray

        return ray.get(self._desk.found.remote(asked))


class _Desk:
    """What runs in a process of the cluster."""

    def __init__(self, packed: Packed, threads: int, paths: Sequence[str]) -> None:
        self._packed, self._threads, self._paths = packed, threads, paths

    @cached_property
    def _work(self) -> Work:
        # Modules are found where the program that started this process has found them.
        sys.path += [path for path in self._paths if path not in sys.path]
        torch.set_num_threads(self._threads)
        work: Work = unpack(self._packed)
        return work

    def found(self, asked: object) -> Any:
        """What is found for what is asked, or why the work failed."""
        return told(lambda: self._work(asked))


def _connect(*, cpus: int) -> None:
    """Connect to the cluster that is named, or start one of this machine."""
    import ray

    address = os.environ.get(_ADDRESS)
    own = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    # Otherwise Ray's makers are told of the cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address or "local", logging_level="warning", **own)
    except Exception as error:
        what = f"the Ray cluster at {_ADDRESS}={address}" if address else "a Ray cluster here"
        raise ValueError(
            f"{what} cannot be used: {error}; give engine=processes, or see to the cluster"
        ) from error


def _check_room(cpus: float, *, workers: int, threads: int) -> None:
    """Refuse workers that would wait for a machine for ever."""
    if cpus < workers * threads:
        raise ValueError(
            f"{workers} workers on {threads} threads each need {workers * threads} CPUs, and the "
            f"Ray cluster has {cpus:g}; give fewer workers or threads, or add machines to it"
        )
