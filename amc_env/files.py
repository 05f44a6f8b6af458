"""Atomic writing: a file has its old content or its new one, never a part of either."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which replaces it when the block ends without an error.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # Without this, a power cut after the rename could leave an empty file.
            os.fsync(file.fileno())
        # mkstemp creates files for their owner alone; a result is to be readable like any other.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    # The mask can only be read by setting another one.
    mask = os.umask(0)
    os.umask(mask)
    return mask
