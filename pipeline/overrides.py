"""Refuses misspelt settings and unwritable folders in one sentence, before Hydra sees them."""

import difflib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from amc_env.names import check_name


def check_overrides(arguments: Sequence[str], configs: Path) -> None:
    """Look at ``key=value`` arguments against the files in ``configs``.

    Keys that begin with ``+`` or ``~`` add and remove, and Hydra's own are its affair.

    Raises:
        ValueError: There is no such setting, or a group has no such file.
    """
    groups = {
        f.name: sorted(p.stem for p in f.glob("*.yaml")) for f in configs.iterdir() if f.is_dir()
    }
    keys = {key for path in configs.rglob("*.yaml") for key in _keys_of(path, configs)} | set(
        groups
    )
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith(("+", "~", "-", "hydra")):
            continue
        _check_key(key, keys)
        if key in groups:
            for choice in _choices(value):
                _check_choice(key, choice, groups[key])


def check_output(arguments: Sequence[str]) -> None:
    """Refuse an output folder that cannot be made, before Hydra makes it.

    Raises:
        ValueError: Nothing can be written there.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in ("hydra.run.dir", "hydra.sweep.dir"):
            continue
        # What Hydra fills in lies below.
        folder = Path(value.partition("${")[0]).absolute()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryDirectory(dir=nearest, prefix=".amc-"):
                pass
        except OSError as error:
            raise ValueError(
                f"{value} cannot be written to ({error.strerror}); give another {key}"
            ) from error


def _check_key(key: str, keys: Iterable[str]) -> None:
    known = sorted(keys)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ValueError(f"there is no setting {key!r}; the nearest is {near[0]!r}")


def _check_choice(group: str, choice: str, known: Sequence[str]) -> None:
    if choice != "null":
        check_name(group, choice, known)


def _choices(value: str) -> list[str]:
    """The values of a sweep; one that Hydra has to work out is left to it."""
    return [] if "(" in value else [choice.strip() for choice in value.split(",")]


def _keys_of(path: Path, configs: Path) -> set[str]:
    """Every dotted key that a file sets, where it is mounted."""
    loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    inside = path.parent.relative_to(configs).parts
    is_global = inside == ("experiment",) or not inside
    return _dotted(loaded, "" if is_global else f"{inside[0]}.")


def _dotted(node: object, prefix: str) -> set[str]:
    found: set[str] = set()
    if isinstance(node, dict):
        for key, value in node.items():
            if prefix or key not in ("defaults", "hydra"):
                found |= {f"{prefix}{key}"} | _dotted(value, f"{prefix}{key}.")
    return found
