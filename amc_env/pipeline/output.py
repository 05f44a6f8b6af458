"""Where a run may write: checked before anything else is done, without importing PyTorch."""

import json
import tempfile
from pathlib import Path

from amc_env.files import write_text

ERROR_FILE = "error.json"


def check_output(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or that holds another run's files.

    Raises:
        ValueError: The folder is not empty, or nothing can be written there.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        if nearest == folder and any(folder.iterdir()):
            raise ValueError(
                f"the folder {folder} is not empty, and a run would overwrite what is in it; give "
                "another one as folder=FOLDER"
            )
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".amc-"):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror}); give another folder=FOLDER"
        ) from error


def write_error(folder: Path, sentence: str) -> None:
    """Leave word in a run's folder of why the run failed, for ``amc_env.pipeline.table``."""
    write_text(folder / ERROR_FILE, json.dumps({"error": sentence}, indent=2) + "\n")
