import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pruning import tiny_env

from amc_env import Budget, EnvSettings
from amc_env.agents import SearchResult, make_agent
from amc_env.pipeline.journal import Journal

# 40 validation samples in batches of 8, so that races and stages end early.
SETTINGS = EnvSettings(evaluation_batch=8, precision="float32")
ENTRIES = {f"number {i}": [i / 7, {"a": float("inf"), "b": None}] for i in range(12)}


def opened(path: Path) -> tuple[Journal, list[str]]:
    """A journal of a file, and what it tells."""
    told: list[str] = []
    journal = Journal(path, tell=told.append)
    journal.open_()
    return journal, told


def asked(journal: Journal, *, known: int) -> None:
    """Ask for all entries in order, of which so many must not be computed again."""
    computed = []

    def compute(what: str) -> Callable[[], object]:
        return lambda: computed.append(what) or ENTRIES[what]

    for what, value in ENTRIES.items():
        assert journal(what, compute(what)) == value
    assert computed == [*ENTRIES][known:]


def test_what_was_computed_is_given_back_exactly(tmp_path: Path) -> None:
    for known in (0, 12, 12):
        journal, told = opened(tmp_path / "journal")
        asked(journal, known=known)
        assert told == []


def test_a_journal_gives_what_a_file_would_from_the_first_time_on(tmp_path: Path) -> None:
    for _ in range(2):
        journal, _ = opened(tmp_path / "journal")
        assert journal("pair", lambda: {1: (2, 3)}) == {"1": [2, 3]}


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    asked(opened(path)[0], known=0)
    path.write_bytes(path.read_bytes()[:-9])
    journal, told = opened(path)
    assert told == [f"the last line of {path} was cut off, so its result is computed again"]
    asked(journal, known=11)
    assert opened(path)[1] == []


@pytest.mark.parametrize("seed", range(30))
def test_damage_is_told_of_and_computed_again(seed: int, tmp_path: Path) -> None:
    path, draw = tmp_path / "journal", random.Random(seed)
    asked(opened(path)[0], known=0)
    before = path.read_bytes()
    content = bytearray(before)
    position = draw.randrange(len(content))
    content[position] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    journal, told = opened(path)
    whole = before[:position].count(b"\n")
    if told:
        assert told[0].startswith((f"line {whole + 1} of {path} is damaged", "the last line of"))
        assert path.with_name("journal.previous").read_bytes() == content
    asked(journal, known=whole if told else 12)
    # All is in the file again.
    asked(opened(path)[0], known=12)


def test_another_course_is_told_of_once_and_what_is_known_still_serves(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    asked(opened(path)[0], known=0)
    journal, told = opened(path)
    assert journal("number 0", list) == ENTRIES["number 0"]
    assert journal("other", lambda: 1) == 1
    assert journal("number 5", list) == ENTRIES["number 5"]
    assert len(told) == 1
    assert told[0].startswith("from its result 2 on, the run asks for others than")


def test_random_numbers_go_on_as_if_the_result_had_been_computed(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        journal, _ = opened(tmp_path / "journal")
        found.append([journal("draw", lambda: float(torch.rand(()))), float(torch.rand(()))])
    assert found[0] == found[1]


def searched(agent: str, path: Path, *, race: bool) -> SearchResult:
    env = tiny_env(
        budget=Budget(flops=0.6), settings=SETTINGS, reward="loss", memory=opened(path)[0]
    )
    options = {"race": True} if race else {}
    return make_agent(agent, options).search(env, episodes=8, seed=1)


@pytest.mark.parametrize(
    ("agent", "race"),
    [("random", True), ("evopress", True), ("evopress", False), ("tpe", False), ("cma_es", False),
     ("spdy", False), ("td3", False), ("ppo", False), ("ddpg_amc", False)],
)  # fmt: skip
def test_a_search_goes_on_from_any_line(agent: str, race: bool, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = searched(agent, path, race=race)
    lines = path.read_bytes().splitlines(keepends=True)
    for cut in (len(lines) // 3, len(lines) - 1):
        path.write_bytes(b"".join(lines[:cut]))
        again = searched(agent, path, race=race)
        assert [(e.counts, e.reward, e.samples) for e in again.episodes] == [
            (e.counts, e.reward, e.samples) for e in whole.episodes
        ]
        assert again.evaluations == whole.evaluations
        assert [line.split()[1:8] for line in path.read_bytes().splitlines()] == [
            line.split()[1:8] for line in lines
        ]
