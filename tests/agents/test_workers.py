"""Candidates that are evaluated by worker processes: the same search, whoever finishes first."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning import tiny_env
from searching import (
    AGENTS,
    EPISODES,
    HALF,
    RACED,
    alone,
    check_a_kill,
    check_an_error,
    check_as_alone,
    env_of,
    in_one_call,
    is_running,
    needs_processes,
    outcomes,
    searched,
    words_of,
)

from amc_env import ChannelPruningEnv
from amc_env.agents import Episode, SearchFailedError, make_agent
from amc_env.agents.processes import LocalProcess, read_shared, write_shared
from amc_env.agents.station import Station
from amc_env.agents.workers import Workers, check_device
from amc_env.env.ahead import Ahead, Request
from amc_env.memory import Compute
from amc_env.pipeline.journal import Journal
from amc_env.rewards import RewardContext
from amc_env.rewards.functions import RandomReward

SMAPS = Path("/proc/self/smaps")

every_way = pytest.mark.parametrize("way", AGENTS)


@dataclass(kw_only=True)
class Beforehand(Ahead):
    """Evaluates what is expected at once, in this process, and counts."""

    env: ChannelPruningEnv
    known: dict[str, Any] = field(default_factory=dict)
    expected: int = 0
    served: int = 0
    missed: int = 0

    is_on = True

    def expect(self, requests: Any) -> None:
        for request in requests:
            if request.question not in self.known:
                self.expected += 1
                self.known |= self._evaluated(request)

    def __call__(self, what: str, compute: Compute, /) -> Any:
        self.served += what in self.known
        self.missed += what not in self.known
        return self.known.pop(what) if what in self.known else compute()

    def _evaluated(self, request: Request) -> Any:
        return Station(self.env.alone())(request)


# The seam, without processes


@every_way
def test_what_is_evaluated_ahead_is_what_the_episodes_ask_for(way: str) -> None:
    env = env_of()
    env.ahead = ahead = Beforehand(env=env)
    result = searched(env, way)
    assert outcomes(result) == outcomes(alone(way))
    assert words_of(result) == words_of(alone(way))
    assert ahead.expected >= 4
    # Every candidate that was expected is asked for, and nothing of it is left over.
    assert ahead.served >= ahead.expected
    assert not ahead.known


@pytest.mark.parametrize("way", ["random", "cma_es", "spdy", "ddpg", "ddpg_amc"])
def test_what_does_not_depend_on_rewards_is_all_evaluated_ahead(way: str) -> None:
    name, options = AGENTS[way]
    env = env_of()
    env.ahead = ahead = Beforehand(env=env)
    if "ddpg" in way:
        # The last episode is played alone.
        options = {**options, "warmup_episodes": EPISODES}
    if way == "spdy":
        options = {**options, "shots": 1.0}
    make_agent(name, options).search(env, episodes=EPISODES, seed=0)
    # A generation of cma_es may have a single episode that is left.
    missed = {"ddpg": 1, "ddpg_amc": 1, "cma_es": 1}.get(way, 0)
    # Different actions may lead to one policy, which is evaluated once.
    assert ahead.missed <= missed
    assert ahead.served + ahead.missed <= EPISODES


@pytest.mark.parametrize("way", ["tpe", "spdy", "race", "ddpg"])
def test_a_batch_of_one_is_the_search_without_batches(way: str) -> None:
    name, options = AGENTS[way]
    key = "episodes_per_update" if way == "ddpg" else "batch"
    found = []
    for given in ({**options, key: 1}, {k: v for k, v in options.items() if k != key}):
        result = make_agent(name, given).search(env_of(), episodes=EPISODES, seed=0)
        found.append(outcomes(result))
    assert found[0] == found[1]


def test_candidates_are_rehearsed_to_the_numbers_of_their_episodes() -> None:
    generator = torch.Generator().manual_seed(0)
    for budgeting in ("scale", "clip"):
        env = env_of()
        for _ in range(5):
            actions = torch.rand(len(env.graph.groups), generator=generator).tolist()
            following = iter(actions)
            rehearsed = env.rehearse(lambda _, f=following: next(f), budgeting=budgeting)
            env.reset(options={"budgeting": budgeting})
            for action in actions:
                *_, info = env.step(torch.tensor([action]).numpy())
            assert info["counts"] == rehearsed


def test_known_outcomes_and_rewards_by_chance_are_not_expected() -> None:
    env = env_of()
    env.ahead = ahead = Beforehand(env=env)
    counts = {group.name: 4 for group in env.graph.groups}
    env.evaluate(counts)
    env.expect([counts])
    env.use_reward_(RandomReward(fresh=True))
    env.expect([{**counts, "stem": 5}])
    assert ahead.expected == 0


def test_what_a_journal_has_is_not_evaluated_again(tmp_path: Path) -> None:
    found = []
    for is_first in (True, False):
        journal = Journal(tmp_path / "journal", tell=print)
        journal.open_()
        env = tiny_env(budget=HALF, settings=RACED, memory=journal)
        env.ahead = ahead = Beforehand(env=env)
        found.append(outcomes(searched(env, "random")))
        assert bool(ahead.expected) == bool(ahead.served) == is_first
        assert ahead.missed == 0
    assert found[0] == found[1] == outcomes(alone("random"))


def test_an_environment_for_another_process_knows_nothing() -> None:
    asked: list[str] = []

    def memory(what: str, compute: Compute) -> Any:
        asked.append(what)
        return compute()

    env = tiny_env(memory=memory)
    counts = {group.name: 4 for group in env.graph.groups}
    env.evaluate(counts)
    before = len(asked)
    other = env.alone()
    assert other.evaluate(counts) == env.evaluate(counts)
    assert len(asked) == before


# The file that is shared


def test_an_environment_is_mapped_from_a_file_and_evaluates_the_same(tmp_path: Path) -> None:
    env = env_of()
    env.pruner.hold_()
    path = tmp_path / "environment.pt"
    write_shared(path, env.alone())
    counts = {group.name: 4 for group in env.graph.groups}
    assert read_shared(path).evaluate(counts) == env.evaluate(counts)


@pytest.mark.skipif(not SMAPS.exists(), reason=f"{SMAPS}, which tells of mappings, is not there")
def test_what_is_mapped_takes_no_memory_of_a_process(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    torch.save(torch.ones(2**22), path)
    mapped: Any = read_shared(path)
    assert mapped.sum() == 2**22
    part = SMAPS.read_text().partition(str(path))[2].partition("VmFlags")[0]
    sizes = dict(line.split()[:2] for line in part.splitlines() if line.endswith(" kB"))
    assert int(sizes["Rss:"]) >= 2**22 * 4 / 1024
    assert int(sizes["Anonymous:"]) == 0


def test_what_cannot_be_sent_is_refused_in_a_sentence(tmp_path: Path) -> None:
    lock = threading.Lock()

    def reward(context: RewardContext) -> float:
        with lock:
            return context.accuracy

    with pytest.raises(ValueError, match=r"cannot be sent to workers: .*give workers=1"):
        write_shared(tmp_path / "environment.pt", env_of(reward=reward).alone())


# Processes


@contextmanager
def working(env: ChannelPruningEnv, workers: int = 2) -> Iterator[Workers]:
    with Workers(env, workers=workers) as crew:
        yield crew


def pid_of(process: Any) -> int:
    assert isinstance(process, LocalProcess)
    (pid,) = process._executor._processes
    return int(pid)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_candidate_changes_nothing(tmp_path: Path) -> None:
    env = env_of()
    crew = Workers(env, workers=2)

    def see(killed: int) -> None:
        assert killed not in {pid_of(process) for process in crew.processes}

    check_a_kill(env, crew, tmp_path, see)


@pytest.mark.slow
def test_an_error_in_a_worker_is_a_sentence_with_its_candidate() -> None:
    env = env_of()
    check_an_error(env, Workers(env, workers=2))


@pytest.mark.slow
@pytest.mark.parametrize(("way", "workers"), [*((way, 2) for way in AGENTS), ("cma_es", 4)])
def test_the_result_does_not_depend_on_the_number_of_workers(way: str, workers: int) -> None:
    env = env_of()
    check_as_alone(Workers(env, workers=workers), env, way, workers)


@pytest.mark.slow
def test_a_candidate_that_always_ends_its_worker_is_given_up_with_a_sentence() -> None:
    def deadly(context: RewardContext) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return context.accuracy

    env = env_of(deadly)
    with working(env), pytest.raises(ValueError, match="3 workers one after the other were ended"):
        searched(env, "random")


@pytest.mark.slow
def test_an_error_after_some_episodes_keeps_them() -> None:
    def fails(context: RewardContext) -> float:
        if context.cost.params < smallest:
            raise ValueError("too small")
        return context.accuracy

    sizes = [e.params_ratio for e in alone("random").episodes]
    failing = next(i for i, size in enumerate(sizes) if i and size < min(sizes[:i]))
    smallest = (sizes[failing] + min(sizes[:failing])) / 2 * env_of().graph.cost().params
    env = env_of(fails)
    with working(env), pytest.raises(SearchFailedError, match="too small") as caught:
        searched(env, "random")
    assert len(caught.value.result.episodes) == failing


@pytest.mark.slow
def test_ctrl_c_ends_a_search_with_workers_and_keeps_its_episodes() -> None:
    def interrupt(episode: Episode) -> None:
        if episode.number == 2:
            raise KeyboardInterrupt

    env = env_of()
    with working(env):
        result = searched(env, "random", tell=interrupt)
    assert not result.is_complete
    assert len(result.episodes) == 2


SCRIPT = """
import time
from pruning import tiny_env
from amc_env.agents import make_agent
from amc_env.agents.workers import Workers

env = tiny_env()

def reward(context):
    return context.accuracy

def tell(episode):
    if episode.number == 3:
        print(*(pid for p in workers.processes for pid in p._executor._processes), flush=True)
        time.sleep(600)

env.use_reward_(reward)
with Workers(env, workers=2) as workers:
    make_agent("random").search(env, episodes=6, seed=0, on_episode=tell)
"""


@pytest.mark.slow
@needs_processes
def test_a_script_needs_no_guard_and_its_workers_end_with_it(tmp_path: Path) -> None:
    script, temporary = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(SCRIPT)
    temporary.mkdir()
    paths = [str(Path(__file__).parents[1]), *sys.path]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TMPDIR": f"{temporary}"}
    environ = {**os.environ, **own}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        were_running = [is_running(pid) for pid in pids]
        shared = list(temporary.glob("amc_env-*/work.pt"))
        process.kill()
    # Otherwise nothing would have ended with the script.
    assert (were_running, len(shared)) == ([True, True], 1)
    deadline = time.monotonic() + 120
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, pids))
    assert not list(temporary.glob("amc_env-*"))


@pytest.mark.slow
def test_one_call_takes_workers() -> None:
    found = [in_one_call(workers=workers) for workers in (1, 2)]
    assert outcomes(found[1]) == outcomes(found[0])


def test_wrong_numbers_and_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0; give at least 1"):
        Workers(tiny_env(), workers=0)
    with pytest.raises(ValueError, match="2 workers and the device is cuda"):
        check_device(torch.device("cuda"), workers=2)
    check_device(torch.device("cuda"), workers=1)
    check_device(torch.device("cpu"), workers=2)
