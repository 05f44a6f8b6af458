"""``resume=RUN_DIR``: the settings of a run that was interrupted, without importing PyTorch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from amc_env.names import nearest
from amc_env.pipeline.calls import train_call
from amc_env.pipeline.sealed import Tell
from amc_env.pipeline.settings_file import SETTINGS_FILE, read_settings, state_of

KEY = "resume"
MORE = "search.episodes"
# Settings that change no result.
FREE = ("search.workers", "search.engine")


def folder_to_resume(arguments: Sequence[str]) -> Path | None:
    """The folder that the arguments ask to resume, if they do."""
    given = [text.partition("=")[2] for text in arguments if text.startswith(f"{KEY}=")]
    return Path(given[-1]) if given and given[-1] not in ("", "null") else None


def settings_to_resume(folder: Path, arguments: Sequence[str], *, tell: Tell) -> DictConfig:
    """The settings of an interrupted run, with more episodes where the arguments ask for them.

    Raises:
        ValueError: There is no such run, or another setting is given than it had.
    """
    plain: Any = OmegaConf.create(read_settings(folder, tell=tell))
    recorded = dict(_dotted(OmegaConf.to_container(plain), ""))
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+")
        given = OmegaConf.select(OmegaConf.from_dotlist([argument.lstrip("+")]), key)
        if key == MORE:
            OmegaConf.update(plain, MORE, _episodes(given, recorded[MORE], folder))
        elif key in FREE:
            OmegaConf.update(plain, key, given)
        elif key != KEY:
            _check(key, given, recorded, folder)
    plain.resume = str(folder)
    settings: DictConfig = plain
    return settings


def is_finished(folder: Path, settings: DictConfig) -> bool:
    """Whether a run has ended by itself, with as many episodes as the settings have."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        asked = OmegaConf.create((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        return bool(metrics["is_complete"]) and asked.search.episodes == settings.search.episodes
    # Of what is missing or damaged, nothing says that the run is finished.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def command_to_resume(folder: Path) -> str | None:
    """The command that goes on with the run in a folder, if it has begun there."""
    if not state_of(folder).is_dir():
        return None
    return train_call(f"{KEY}={folder}")


def _episodes(given: object, before: int, folder: Path) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < before:
        raise ValueError(
            f"{MORE} is {given!r}, and the run in {folder} is one of {before}; a resumed run may "
            "have more episodes, but not fewer"
        )
    return given


def _check(key: str, given: object, recorded: Mapping[str, Any], folder: Path) -> None:
    """Refuse a setting that the run did not have; one that it had may be repeated."""
    if key not in recorded:
        near = nearest(key, [*recorded, KEY])
        raise ValueError(f"there is no setting {key!r} in a resumed run; the nearest is {near!r}")
    before = recorded[key]
    if isinstance(before, Mapping) and not isinstance(given, Mapping):
        # A choice of a group is called by its name.
        before = before.get("name")
    if given != before:
        raise ValueError(
            f"{key} is {before!r} in {folder / SETTINGS_FILE} and {given!r} on the command line; a "
            f"resumed run keeps its settings, but for more {MORE}: leave {key} out, or start "
            "another run"
        )


def _dotted(node: object, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _dotted(value, f"{prefix}{key}.")
