"""What a run has computed until now, written line by line, so that a resumed run need not again."""

import base64
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amc_env.files import atomic
from amc_env.memory import Compute
from amc_env.pipeline.sealed import PREVIOUS, Tell
from amc_env.randomness import random_states, restore_random_states_

_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a journal.

    Attributes:
        what: What the result is of.
        result: What was computed, as JSON gives it back.
        random: Where computing it left the global random generators, if it drew from them.
    """

    what: str
    result: Any
    random: Mapping[str, str] = field(default_factory=dict)


class Journal:
    """A memory in a file, which has a line for every result in the order in which they were asked.

    A resumed run does again what the run did, and asks for the same results in the same order; it
    goes on where the lines end. Where it asks for another one, it is told so, and results that
    there are still serve whenever they are asked for.

    Args:
        path: The file.
        tell: Shows a sentence.
    """

    def __init__(self, path: Path, *, tell: Tell) -> None:
        self._path, self._tell = path, tell
        self._known: dict[str, Entry] = {}
        self._ahead: deque[str] = deque()
        self._asked: set[str] = set()
        self._is_open = False

    def open_(self) -> None:
        """Read what there is and go on behind it; a damaged line and all after it are dropped."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        previous = self._path.with_name(self._path.name + PREVIOUS)
        # Whoever was killed while it mended a journal left the damaged one alone.
        found = next((path for path in (self._path, previous) if path.exists()), None)
        content = found.read_bytes() if found else b""
        lines = [*_whole_lines(content)]
        if sum(map(len, lines)) < len(content):
            self._tell(_complaint(self._path, content, kept=len(lines)))
            with atomic(self._path) as temporary:
                temporary.write_bytes(b"".join(lines))
                if self._path.exists():
                    self._path.replace(previous)
        for entry in map(_read, lines):
            self._known[entry.what] = entry
            self._ahead.append(entry.what)
        self._is_open = True

    def __call__(self, what: str, compute: Compute) -> Any:
        """The result of what was computed before, or else computed now and written down."""
        if what in self._asked:
            return self._known[what].result
        self._follow_(what)
        if what in self._known:
            restore_random_states_(_tensors(self._known[what].random))
        else:
            self._known[what] = self._written(what, compute)
        self._asked.add(what)
        return self._known[what].result

    def __contains__(self, what: object) -> bool:
        """Whether a result has been computed before."""
        return what in self._known

    def _follow_(self, what: str) -> None:
        """Pass the next line, or notice that the run takes another course than before."""
        if self._ahead and self._ahead.popleft() != what:
            self._tell(
                f"from its result {len(self._asked) + 1} on, the run asks for others than "
                f"{self._path} has next, as it does with more episodes, or with another processor "
                "or library; it goes on by itself, and what was computed before still serves"
            )
            self._ahead.clear()

    def _written(self, what: str, compute: Compute) -> Entry:
        before = random_states()
        result = compute()
        after = random_states()
        moved = {} if _are_equal(before, after) else _texts(after)
        line = _line(Entry(what=what, result=result, random=moved))
        if self._is_open:
            # One call writes the whole line, so that a kill leaves at most the last one cut off.
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        # JSON makes lists of tuples; a resumed run must not be given anything else.
        return _read(line)


def _line(entry: Entry) -> bytes:
    text = json.dumps([entry.what, entry.result, entry.random]).encode()
    return _checksum(text) + b" " + text + b"\n"


def _read(line: bytes) -> Entry:
    what, result, random = json.loads(line[_DIGITS + 1 :])
    return Entry(what=what, result=result, random=random)


def _whole_lines(content: bytes) -> Iterator[bytes]:
    """The lines before the first that is damaged or cut off."""
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n") or line[:_DIGITS] != _checksum(line[_DIGITS + 1 : -1]):
            return
        yield line


def _complaint(path: Path, content: bytes, *, kept: int) -> str:
    lost = len(content.splitlines()) - kept
    if lost == 1 and not content.endswith(b"\n"):
        return f"the last line of {path} was cut off, so its result is computed again"
    return f"line {kept + 1} of {path} is damaged, so it and all after it are computed again"


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_DIGITS].encode()


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _texts(states: Mapping[str, Tensor]) -> dict[str, str]:
    return {k: base64.b64encode(bytes(state.tolist())).decode() for k, state in states.items()}


def _tensors(texts: Mapping[str, str]) -> dict[str, Tensor]:
    return {
        key: torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
        for key, text in texts.items()
    }
