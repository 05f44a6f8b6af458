import random
from pathlib import Path

import pytest

from amc_env.pipeline.sealed import read_sealed, write_sealed


def test_a_file_is_read_as_it_was_written_and_the_previous_one_is_kept(tmp_path: Path) -> None:
    path, previous = tmp_path / "a", tmp_path / "b"
    told: list[str] = []
    assert read_sealed([path, previous], tell=told.append) is None
    for content in (b"", b"one\n", bytes(range(256))):
        write_sealed(path, content, previous=previous)
        assert read_sealed([path], tell=told.append) == content
    assert read_sealed([previous], tell=told.append) == b"one\n"
    assert told == []


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_never_read_as_if_it_was_whole(seed: int, tmp_path: Path) -> None:
    path, previous, draw = tmp_path / "a", tmp_path / "b", random.Random(seed)
    for content in (b"before", b"after"):
        write_sealed(path, content, previous=previous)
    content = bytearray(path.read_bytes())
    if seed % 3:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        del content[draw.randrange(len(content)) :]
    path.write_bytes(content)
    told: list[str] = []
    assert read_sealed([path, previous], tell=told.append) == b"before"
    assert told == [f"{path} is damaged or was changed; {previous} is read instead"]
    previous.unlink()
    assert read_sealed([path, previous], tell=told.append) is None
    assert told[1:] == [f"{path} is damaged or was changed; what it held is lost"]
