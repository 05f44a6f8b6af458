"""The one way in for everything that can be chosen by name or brought along.

Criteria, rewards, agents, data sets, models and budget measures are each a ``Kind``: a table of
names, a group of entry points through which installed packages add to it, dotted paths to a user's
own code, and objects that are made already.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that is spelt most like ``name``."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ValueError: The name is not known; the message has the nearest known name, and all of them.
    """
    names = list(known)
    if name not in names:
        raise ValueError(
            f"{kind} {name!r} does not exist; the nearest is {nearest(name, names)!r}, "
            f"choose one of {', '.join(names)}"
        )


def check_options(kind: str, name: str, given: Iterable[str], known: Iterable[str] | None) -> None:
    """Refuse an option that is not known; without a list of known ones, nothing is refused.

    Raises:
        ValueError: An option is not known; the message has the nearest known option, and all.
    """
    if known is None:
        return
    options = list(known)
    for option in given:
        if not options:
            raise ValueError(f"{kind} {name!r} cannot take {option!r}; it has no options")
        if option not in options:
            raise ValueError(
                f"{kind} {name!r} cannot take {option!r}; the nearest option is "
                f"{nearest(option, options)!r}, choose one of {', '.join(options)}"
            )


def name_of(thing: object) -> str:
    """What tables and files call a thing: its ``name``, or that of its function or class."""
    own = getattr(thing, "name", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(thing, partial):
        return name_of(thing.func)
    return getattr(thing, "__name__", None) or type(thing).__name__


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """One kind of thing that is chosen by name, installed, pointed to, or passed as an object.

    Attributes:
        title: What messages call such a thing, such as ``criterion``.
        entry_points: The group of entry points in which installed packages offer more of them.
        makers: What makes each thing of our own, by name; called with its options.
        is_made: Whether an object already is such a thing.
    """

    title: str
    entry_points: str
    makers: Mapping[str, Callable[..., T]]
    is_made: Callable[[object], bool]

    def names(self) -> list[str]:
        """All names: ours, then those of installed packages."""
        return list(with_installed(self.title, self.makers, self.entry_points))

    def make(self, given: str | T, options: Mapping[str, Any] | None = None) -> T:
        """The thing of a name with its options; a thing that is made already is given back.

        Raises:
            ValueError: There is no such name or option, an option's value is refused, options come
                with a thing that is made already, or the object is no such thing.
        """
        if isinstance(given, str):
            makers = with_installed(self.title, self.makers, self.entry_points)
            return self._checked(make_by_name(self.title, given, makers, options), given)
        if options:
            raise ValueError(
                f"the {self.title} is made already, so the options {', '.join(options)} come too "
                f"late; give them where it is made"
            )
        return self._checked(given, name_of(given))

    def make_target(self, target: str, options: Mapping[str, Any] | None = None) -> T:
        """The thing at a dotted path such as ``my_package.my_module.MyThing``.

        A class, or a function that the options are enough to call, makes the thing; any other
        function is the thing itself, with the options bound to it.

        Raises:
            ValueError: The path cannot be imported, refuses the options, or gives no such thing.
        """
        found = _imported(target)
        return self._checked(make_or_bind(self.title, target, found, options), target)

    def _checked(self, made: object, name: str) -> T:
        if not self.is_made(made):
            raise ValueError(
                f"{name!r} gives a {type(made).__name__}, which is no {self.title}; "
                f"choose one of {', '.join(self.names())}, or give an object that is one"
            )
        thing: T = made  # type: ignore[assignment]
        return thing


def make_by_name(
    kind: str, name: str, makers: Mapping[str, Callable[..., T]], options: Mapping[str, Any] | None
) -> T:
    """What the maker of a name makes of the options.

    Raises:
        ValueError: There is no such name or option, an option's value is refused, or what a package
            offers under the name cannot be imported.
    """
    check_name(kind, name, makers)
    given = dict(options or {})
    check_options(kind, name, given, _options_of(makers[name]))
    try:
        return makers[name](**given)
    except TypeError as error:
        raise ValueError(f"{kind} {name!r} cannot take {given}: {error}") from error


def make_or_bind(
    kind: str, name: str, found: object, options: Mapping[str, Any] | None = None
) -> object:
    """What ``found`` makes of the options, or ``found`` itself where it needs more than options.

    Raises:
        ValueError: It refuses the options.
    """
    given = dict(options or {})
    if not callable(found):
        return found
    try:
        if isinstance(found, type) or _takes(found, given):
            return found(**given)
        # A plain reward takes the finished episode, a measure the cost: they are the thing itself.
        inspect.signature(found).bind_partial(**given)
    except TypeError as error:
        raise ValueError(f"{kind} {name!r} cannot take {given}: {error}") from error
    return partial(found, **given) if given else found


def with_installed(
    kind: str, makers: Mapping[str, Callable[..., T]], group: str
) -> dict[str, Callable[..., T]]:
    """The makers, and those that installed packages offer under a group of entry points.

    A package's maker is imported when it is called, and never stands in for one of ours.
    """
    installed = {
        entry.name: partial(_load_and_make, kind, entry) for entry in entry_points(group=group)
    }
    return {**makers, **{name: make for name, make in installed.items() if name not in makers}}


def _load_and_make(kind: str, entry: EntryPoint, /, **options: Any) -> Any:
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{entry.name!r} is {entry.value}, which cannot be imported: {error}"
        ) from error
    return make_or_bind(kind, entry.name, found, options)


def _imported(target: str) -> object:
    module, _, attribute = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{target!r} cannot be imported ({error}); give PACKAGE.MODULE.NAME of your own code, "
            "with its folder on PYTHONPATH"
        ) from error


def _takes(function: Callable[..., object], options: Mapping[str, Any]) -> bool:
    """Whether the options are all that a function needs to be called."""
    try:
        needed = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(
        parameter.kind in open_ended
        or parameter.default is not inspect.Parameter.empty
        or parameter.name in options
        for parameter in needed
    )


def _options_of(maker: Callable[..., object]) -> list[str] | None:
    """Names of the options that a maker takes; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
