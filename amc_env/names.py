"""What is called by a name: made with its options, or refused with the nearest name there is."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

T = TypeVar("T")


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ValueError: It is not; the message has the nearest, and all.
    """
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
        raise ValueError(
            f"{kind} {name!r} does not exist; the nearest is {near[0]!r}, "
            f"choose one of {', '.join(names)}"
        )


def make_by_name(
    kind: str, name: str, makers: Mapping[str, Callable[..., T]], options: Mapping[str, Any] | None
) -> T:
    """What the maker of that name makes of the options.

    Raises:
        ValueError: There is no such name or option, an option's value is refused, or what a package
            offers under the name cannot be imported.
    """
    check_name(kind, name, makers)
    given = dict(options or {})
    try:
        return makers[name](**given)
    except TypeError as error:
        raise ValueError(f"{kind} {name!r} cannot take {given}: {error}") from error


def with_installed(
    makers: Mapping[str, Callable[..., T]], group: str
) -> dict[str, Callable[..., T]]:
    """The makers, and those that installed packages offer under a group of entry points.

    A package's maker is imported when it is called, and never stands in for one of ours.
    """
    installed = {entry.name: partial(_load_and_make, entry) for entry in entry_points(group=group)}
    return {**makers, **{name: make for name, make in installed.items() if name not in makers}}


def _load_and_make(entry: EntryPoint, **options: Any) -> Any:
    try:
        maker = entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{entry.name!r} is {entry.value}, which cannot be imported: {error}"
        ) from error
    return maker(**options)
