"""Files that tell whether they were damaged: their last line is a checksum of all before it."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from amc_env.files import atomic

Tell = Callable[[str], None]

PREVIOUS = ".previous"

# A comment in YAML.
_SEAL = b"# sha256 of the lines above: "
_LENGTH = len(_SEAL) + hashlib.sha256().digest_size * 2 + 1


def write_sealed(path: Path, payload: bytes, *, previous: Path | None = None) -> None:
    """Write a file with its checksum atomically; ``previous`` receives what it was before."""
    with atomic(path) as temporary:
        temporary.write_bytes(payload + _seal(payload))
        if previous and path.exists():
            path.replace(previous)


def read_sealed(paths: Sequence[Path], *, tell: Tell) -> bytes | None:
    """The content of the first of these files that is whole, or None; damaged ones are told of."""
    for path, following in zip(paths, [*paths[1:], None], strict=True):
        if not path.is_file():
            continue
        content = path.read_bytes()
        payload = content[:-_LENGTH]
        if content[-_LENGTH:] == _seal(payload):
            return payload
        has_other = following is not None and following.is_file()
        instead = f"{following} is read instead" if has_other else "what it held is lost"
        tell(f"{path} is damaged or was changed; {instead}")
    return None


def _seal(payload: bytes) -> bytes:
    return _SEAL + hashlib.sha256(payload).hexdigest().encode() + b"\n"
