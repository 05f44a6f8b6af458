"""Workers on Ray clusters of several machines, each a process with a store of its own."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from searching import check_as_alone, env_of, outcomes, searched, words_of

from amc_env.agents.cluster import RayEngine
from amc_env.agents.workers import Workers
from amc_env.rewards import RewardContext

pytestmark = pytest.mark.slow

Machines = Callable[[int], Any]


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Starts a cluster of so many machines with room for one worker each."""
    ray = pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    started = []

    def start(count: int) -> Any:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        started.append(cluster)
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="warning")
        return cluster

    yield start
    ray.shutdown()
    for cluster in started:
        cluster.shutdown()


def crew_of(env: Any) -> Workers:
    return Workers(env, workers=2, engine=RayEngine())


def held_on(folder: Path) -> Callable[[RewardContext], float]:
    """The accuracy, which workers note their machine for, and then wait to be let go."""
    here = os.getpid()

    def reward(context: RewardContext) -> float:
        if os.getpid() != here:
            import ray

            (folder / ray.get_runtime_context().get_node_id()).touch()
            while not (folder / "go").exists():
                time.sleep(0.02)
        return context.accuracy

    return reward


def machines_in(folder: Path, *, at_least: int) -> list[str]:
    """The machines on which workers are held or were, once there are so many."""
    deadline = time.monotonic() + 120
    while len(found := sorted(path.name for path in folder.iterdir())) < at_least:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("way", ["race", "ddpg"])
def test_workers_of_two_machines_find_what_is_found_without_workers(
    way: str, machines: Machines
) -> None:
    machines(2)
    env = env_of()
    check_as_alone(crew_of(env), env, way, 2)


def test_a_machine_that_is_lost_in_a_candidate_changes_nothing(
    machines: Machines, tmp_path: Path
) -> None:
    cluster = machines(3)
    lost: list[str] = []

    def lose() -> None:
        try:
            busy = machines_in(tmp_path, at_least=2)
            # The head keeps the books of the cluster, and cannot be lost.
            node = next(n for n in cluster.worker_nodes if n.node_id in busy)
            cluster.remove_node(node, allow_graceful=False)
            lost.append(node.node_id)
            # The other worker could be through with all before a third has begun.
            machines_in(tmp_path, at_least=3)
        finally:
            (tmp_path / "go").touch()

    env = env_of(held_on(tmp_path))
    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    with crew_of(env):
        result = searched(env, "random")
    loser.join(timeout=60)
    assert lost
    used = {path.name for path in tmp_path.iterdir()} - {"go"}
    assert len(used) == 3
    without = searched(env_of(held_on(tmp_path)), "random")
    assert outcomes(result) == outcomes(without)
    assert words_of(result) == words_of(without)
