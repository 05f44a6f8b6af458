"""Searches that are compared: by every way of asking for candidates, with workers and without."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pruning import tiny, tiny_data, tiny_env

from amc_env import Budget, ChannelPruningEnv, EnvSettings, RepairSettings
from amc_env.agents import Episode, SearchResult, make_agent, search
from amc_env.agents.workers import Workers
from amc_env.rewards import RewardContext

# More than the mixtures that some agents begin with.
EPISODES = 14
HALF = Budget(flops=0.5)
# Small batches of evaluation, so that there is something to race for.
RACED = EnvSettings(
    repair=RepairSettings(calibration_batch=24), precision="float32", evaluation_batch=10
)
SMALL = {"batch_size": 8, "hidden_sizes": (16, 16), "warmup_episodes": 3}
# Every way in which candidates are asked for.
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "race": ("random", {"race": True, "batch": 3}),
    "cma_es": ("cma_es", {}),
    "tpe": ("tpe", {"batch": 3}),
    "spdy": ("spdy", {"batch": 3, "shots": 0.3}),
    "evopress": ("evopress", {"stages": [[0.25, 4], [0.5, 2]], "race": True}),
    "ddpg_amc": ("ddpg_amc", {**SMALL, "episodes_per_update": 2}),
    "ddpg": ("ddpg", {**SMALL, "episodes_per_update": 2, "explored_share": 0.7}),
}


def env_of(reward: object = "loss") -> ChannelPruningEnv:
    return tiny_env(budget=HALF, reward=reward, settings=RACED)


def searched(
    env: ChannelPruningEnv, way: str, *, tell: Callable[[Episode], None] | None = None
) -> SearchResult:
    name, options = AGENTS[way]
    return make_agent(name, options).search(env, episodes=EPISODES, seed=3, on_episode=tell)


@cache
def alone(way: str) -> SearchResult:
    """A search without workers."""
    return searched(env_of(), way)


def in_one_call(*, workers: int, engine: str = "processes") -> SearchResult:
    """A search by the function that needs no other."""
    data = tiny_data()
    return search(
        tiny(),
        calibration=data.calibration,
        validation=data.validation,
        budget=0.5,
        agent="cma_es",
        reward="loss",
        settings=RACED,
        episodes=6,
        workers=workers,
        engine=engine,
    )


def outcomes(result: SearchResult) -> list[tuple[object, ...]]:
    return [(e.reward, e.counts, e.sparsities, e.accuracy, e.samples) for e in result.episodes]


def words_of(result: SearchResult) -> str:
    return result.policy.model_dump_json()


def held_in_workers(folder: Path) -> Callable[[RewardContext], float]:
    """The accuracy, which workers do not find before one of them was killed."""
    here, go = os.getpid(), folder / "go"

    def reward(context: RewardContext) -> float:
        if os.getpid() != here:
            (folder / f"pid-{os.getpid()}").touch()
            while not go.exists():
                time.sleep(0.02)
        return context.accuracy

    return reward


@contextmanager
def killing_one(folder: Path) -> Iterator[Callable[[], int]]:
    """Kill the first worker that is held in the block; called, it returns which one that was."""
    killed: list[int] = []

    def kill() -> None:
        while not (found := [*folder.glob("pid-*")]):
            time.sleep(0.02)
        killed.append(int(found[0].name.removeprefix("pid-")))
        os.kill(killed[0], signal.SIGKILL)
        (folder / "go").touch()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield lambda: killed[0]
    killer.join(timeout=60)


def check_as_alone(crew: Workers, env: ChannelPruningEnv, way: str, workers: int) -> None:
    """Hold that so many workers find what a search without any finds."""
    with crew:
        result = searched(env, way)
        assert len(crew.processes) == workers
    assert outcomes(result) == outcomes(alone(way))
    assert words_of(result) == words_of(alone(way))


def check_an_error(env: ChannelPruningEnv, crew: Workers) -> None:
    """Hold that an error of a reward in a worker becomes a sentence that names the candidate."""

    def fails(context: RewardContext) -> float:
        raise RuntimeError(f"no luck with {context.cost.params} parameters")

    env.use_reward_(fails)
    with crew, pytest.raises(ValueError, match=r"keeps . of stem, .*: no luck with \d+"):
        searched(env, "random")


def check_a_kill(
    env: ChannelPruningEnv, crew: Workers, folder: Path, see: Callable[[int], None]
) -> None:
    """Hold that a killed worker changes nothing; ``see`` is given which one it was."""
    env.use_reward_(held_in_workers(folder))
    with crew, killing_one(folder) as killed:
        result = searched(env, "random")
        see(killed())
    without = searched(env_of(held_in_workers(folder)), "random")
    assert outcomes(result) == outcomes(without)
    assert words_of(result) == words_of(without)


# Elsewhere a process that has ended could not be told from one that runs.
needs_processes = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="/proc, which lists processes, is not there"
)


def is_running(pid: str) -> bool:
    """Whether a process is there and has not ended, which one that nobody waits for may have."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
