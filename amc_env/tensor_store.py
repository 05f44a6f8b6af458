"""Tensors that took long to compute, kept in files, so that they need not be computed again."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from amc_env.checksums import checksum
from amc_env.files import atomic, write_text

_LOG = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]

INDEX_FILE = "index.json"

_SHOWN = 16
_GIB = 2**30


class _Index(BaseModel):
    """What a folder holds: the file of every part, by the part's name, and its SHA-256.

    The index has a checksum of its own, because a name that changed would be that of another part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    files: dict[str, tuple[str, str]]
    sha256: str = ""

    @property
    def checksum(self) -> str:
        """What ``sha256`` has to be."""
        return checksum({"key": self.key, "files": repr(sorted(self.files.items()))}, {})


class TensorStore:
    """A folder of tensors by a key, which says all that they depend on.

    What is kept by one key may have several parts, each in a safetensors file of its own, so that
    no more than one part is ever held twice. An index with their checksums is written last; parts
    without one count for nothing. Several processes may read and write at once.

    Args:
        folder: Where the files are. It is made when something is kept.
        max_bytes: Tensors that take more are not kept.
        tell: Shows a sentence, where something is not kept or cannot be read.

    Attributes:
        tell: As given.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        tell: Callable[[str], None] = _LOG.warning,
    ) -> None:
        self.tell = tell
        self._folder, self._max_bytes = folder, max_bytes

    def read(self, key: str) -> dict[str, dict[str, Tensor]] | None:
        """The tensors of every part that is kept by this key, on the CPU, or None.

        Where a file is missing or damaged, a sentence says so, and nothing of the others is used.
        """
        folder = self._place(key)
        if not (folder / INDEX_FILE).is_file():
            return None
        try:
            index = _Index.model_validate_json((folder / INDEX_FILE).read_bytes())
            if index.key != key or index.sha256 != index.checksum:
                raise ValueError(f"{INDEX_FILE} has another key or differs from its checksum")
            parts = {name: _read(folder / file, sha) for name, (file, sha) in index.files.items()}
        except (OSError, ValidationError, SafetensorError, ValueError) as error:
            why = str(error).partition("\n")[0]
            self.tell(f"{folder} is damaged ({why}); what it held is computed again")
            return None
        return parts

    def write(self, key: str, parts: Mapping[str, Callable[[], Tensors]], *, size: int) -> None:
        """Keep tensors by a key, in place of what is kept by it.

        Tensors that are too large, or that the disk does not take, are not kept, and a sentence
        says so.

        Args:
            key: Says all that the tensors depend on.
            parts: What gives the tensors of every part, one part after the other.
            size: How many bytes all of them take.
        """
        if size > self._max_bytes:
            self.tell(
                f"calibration and factors would take {size / _GIB:.1f} GiB, more than the "
                f"{self._max_bytes / _GIB:.1f} that may be kept, so they will be computed again"
            )
            return
        try:
            self._write(self._place(key), key, parts)
        # The library of the files has an error of its own, as for a full disk.
        except (OSError, SafetensorError) as error:
            self.tell(f"nothing can be kept in {self._folder} ({error}), so it is not")

    def _write(self, folder: Path, key: str, parts: Mapping[str, Callable[[], Tensors]]) -> None:
        files = {}
        for number, (name, tensors) in enumerate(parts.items()):
            # The library looks at the storage of tensors, which not every device has.
            stored = {each: x.cpu().contiguous() for each, x in tensors().items()}
            # Other contents, as of another process that computed the same, are in other files, so
            # that every index has the files that it was written with.
            file = f"{number}-{checksum({}, stored)[:_SHOWN]}.safetensors"
            with atomic(folder / file) as temporary:
                save_file(stored, temporary)
                files[name] = (file, _sha256(temporary))
        index = _Index(key=key, files=files)
        sealed = index.model_copy(update={"sha256": index.checksum})
        write_text(folder / INDEX_FILE, sealed.model_dump_json() + "\n")

    def _place(self, key: str) -> Path:
        return self._folder / key[:_SHOWN]


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    # What is checked is what is used, even if the file changes in between.
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path.name} differs from its checksum")
    return load(content)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
