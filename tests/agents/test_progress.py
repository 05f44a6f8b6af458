"""How far work has come, in a terminal and in a log."""

import io

import pytest
from rich.console import Console

from amc_env.agents import progress as module
from amc_env.agents.progress import progress


def shown(*, terminal: bool, steps: int, total: int) -> str:
    text = io.StringIO()
    with progress(Console(file=text, force_terminal=terminal), "searching", total=total) as advance:
        for number in range(steps):
            advance(f"best reward {number}")
    return text.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    assert "3/3" in shown(terminal=True, steps=3, total=3)


def test_a_log_has_the_first_and_the_last_step_and_few_between() -> None:
    lines = shown(terminal=False, steps=40, total=40).splitlines()
    assert lines[0].startswith("searching: 1 of 40, best reward 0, about ")
    assert lines[-1] == "searching: 40 of 40, best reward 39"
    assert len(lines) == 2


def test_a_log_grows_while_a_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 6.0, 8.0, 11.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    lines = shown(terminal=False, steps=4, total=9).splitlines()
    assert lines == [
        "searching: 1 of 9, best reward 0, about 16 s left",
        "searching: 3 of 9, best reward 2, about 16 s left",
    ]
