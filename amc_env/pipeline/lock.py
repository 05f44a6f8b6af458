"""One process at a time works in the folder of a run or a study."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def lock(folder: Path, *, place: Path) -> None:
    """Keep other processes from working in a folder until this process ends.

    Args:
        folder: The one that is to be locked.
        place: The folder that a user knows, of a run or a study.

    Raises:
        ValueError: Another process does so already.
    """
    # Windows keeps no lock that its death would free as surely.
    if sys.platform == "win32":
        return
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(handle)
        raise ValueError(
            f"another process is at work in {place}; wait until it has ended, or end it first"
        ) from error
    except OSError:
        # A file system that knows no locks is no reason not to run.
        os.close(handle)
