"""Workers on a Ray cluster of this machine: the same search as without any."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import (
    check_a_kill,
    check_an_error,
    check_as_alone,
    env_of,
    in_one_call,
    is_running,
    needs_processes,
    outcomes,
    searched,
)

from amc_env.agents.cluster import RayEngine
from amc_env.agents.packing import Packed, pack
from amc_env.agents.processes import LocalEngine
from amc_env.agents.workers import Workers, make_engine

MAPS = Path("/proc/self/maps")


def test_an_engine_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="engine 'rai' does not exist; the nearest is 'ray'"):
        make_engine("rai")


def test_without_ray_the_engine_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "ray", None)
    refusal = r"^engine 'ray' needs ray, which is not installed; .*pip install 'amc-env\[ray\]'$"
    with pytest.raises(ValueError, match=refusal):
        make_engine("ray")
    assert isinstance(make_engine("processes"), LocalEngine)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of this machine for two workers."""
    ray = pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield ray
    ray.shutdown()


def on_ray(env: Any, workers: int = 2) -> Workers:
    return Workers(env, workers=workers, engine=RayEngine())


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("way", "workers"), [("cma_es", 1), ("random", 2), ("evopress", 2), ("ddpg", 2)]
)
def test_the_result_does_not_depend_on_the_engine(way: str, workers: int) -> None:
    env = env_of()
    check_as_alone(on_ray(env, workers), env, way, workers)


@pytest.mark.slow
@needs_processes
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_in_a_candidate_changes_nothing(tmp_path: Path) -> None:
    def see(killed: int) -> None:
        assert not is_running(str(killed))

    env = env_of()
    check_a_kill(env, on_ray(env), tmp_path, see)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_error_in_a_worker_is_a_sentence_with_its_candidate() -> None:
    env = env_of()
    check_an_error(env, on_ray(env))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_room_for_are_refused() -> None:
    env = env_of()
    with (
        on_ray(env, workers=3),
        pytest.raises(ValueError, match="3 workers on 1 threads each need 3 CPUs, and the Ray"),
    ):
        searched(env, "random")


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason=f"{MAPS}, which lists mappings, is not there")
def test_all_workers_of_a_machine_read_one_copy(cluster: Any) -> None:
    class Reader:
        def place(self, packed: Packed) -> tuple[str, float]:
            """The file that the memory is mapped from, and a sum of what is in it."""
            (memory,) = packed.memories
            for line in MAPS.read_text().splitlines():
                first, last = (int(end, 16) for end in line.split()[0].split("-"))
                if first <= memory.ctypes.data < last:
                    return ":".join(line.split()[3:5]), float(memory.sum())
            raise AssertionError("the memory is no mapping")

    shared = cluster.put(pack(np.ones(2**22, dtype=np.uint8)))
    readers = [cluster.remote(Reader).options(num_cpus=1).remote() for _ in range(2)]
    (first, total), second = cluster.get([reader.place.remote(shared) for reader in readers])
    for reader in readers:
        cluster.kill(reader)
    assert second == (first, total)
    assert total == 2**22
    # Memory of its own, a copy of it, would come from no file.
    assert not first.endswith(":0")


@pytest.mark.slow
def test_one_call_starts_a_cluster_of_its_own_and_ends_it() -> None:
    ray = pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    ray.shutdown()
    found = [in_one_call(workers=workers, engine="ray") for workers in (1, 2)]
    assert outcomes(found[1]) == outcomes(found[0])
    assert not ray.is_initialized()
