"""The settings in a run's folder, with a checksum and a copy, for a resumed run to read."""

from pathlib import Path

from amc_env.pipeline.sealed import Tell, read_sealed, write_sealed

SETTINGS_FILE = "config.yaml"


def state_of(folder: Path) -> Path:
    """The folder of all that a resumed run goes on from, within that of the run."""
    return folder / "resume"


def write_settings(folder: Path, text: str) -> None:
    """Write the settings of a run and their copy."""
    # The copy comes first, so that a run that was killed in between has no settings beside it.
    for path in reversed(_files(folder)):
        write_sealed(path, text.encode())


def read_settings(folder: Path, *, tell: Tell) -> str:
    """The settings of a run that can be resumed.

    Raises:
        ValueError: There are none, or both files are damaged.
    """
    own, copy = _files(folder)
    if not copy.exists():
        raise ValueError(
            f"there is no run to resume in {folder}: {copy} is missing; give the folder of a run, "
            "of a sweep that of one of its jobs, and of several budgets that of all of them"
        )
    content = read_sealed([own, copy], tell=tell)
    if content is None:
        raise ValueError(
            f"{own} and its copy are damaged, so the run cannot be resumed; start it again in "
            "another folder"
        )
    return content.decode()


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / SETTINGS_FILE, state_of(folder) / SETTINGS_FILE
