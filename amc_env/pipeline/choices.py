"""The groups of a folder of configuration files."""

from pathlib import Path


def choices_of(configs: Path) -> dict[str, list[str]]:
    """The names of every group's files."""
    folders = sorted(path for path in configs.iterdir() if path.is_dir())
    return {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}
