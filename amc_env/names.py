"""The one way to extend the package: things that are chosen by name, or that users bring along.

Criteria, rewards, tasks, agents, data sets, models and budget measures are each a ``Kind``. A thing
of a kind is given in one of four ways: by a name from the kind's table, by a name that an installed
package declares as an entry point, by the path of the user's own code, or as an object.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from typing_extensions import override

T = TypeVar("T")

# More names than this are not listed in a message: nobody reads the names of 1,500 models.
_MOST_LISTED = 60
_PACKAGE = str(Path(__file__).parent)
# The modules that were run from files of a user's own, by the names that they were given.
_FILES: dict[str, ModuleType] = {}
_LIBRARIES = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))


class WithName:
    """Base of what is called by a name: that of its class, unless the class says so.

    Attributes:
        name: What tables, files and messages call it.
    """

    name: str

    @override
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A class may also set its name in every object, as a dataclass does for a field.
        if "name" not in vars(cls) and "name" not in inspect.get_annotations(cls):
            cls.name = cls.__name__


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name whose spelling is most like that of ``name``."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        ValueError: The name is not known. The message contains the nearest known name, and all
            known names unless there are very many.
    """
    names = list(known)
    if name not in names:
        raise _unknown(kind, name, names)


def check_options(kind: str, name: str, given: Iterable[str], known: Iterable[str] | None) -> None:
    """Refuse an option that is not among the known ones; ``known`` None refuses nothing.

    Raises:
        ValueError: An option is not known. The message contains the nearest known option and all
            known options.
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


def name_of(thing: object, *, target: str = "") -> str:
    """What tables and files call a thing.

    That is the thing's own ``name``. A thing without one goes by the last part of ``target``, the
    path that it was made from, and without a path by the name of its function or class.
    """
    own = getattr(thing, "name", None)
    if isinstance(own, str) and own:
        return own
    if target:
        return target.rpartition(":")[2].rpartition(".")[2]
    if isinstance(thing, partial):
        return name_of(thing.func)
    qualified = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    # A lambda goes by the function that returned it: "smallness.<locals>.<lambda>".
    named = [part for part in qualified.split(".") if not part.startswith("<")]
    return named[-1] if named else qualified


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """One kind of thing that is chosen by name, installed, given by its path, or as an object.

    Attributes:
        title: What messages call such a thing, such as ``criterion``.
        entry_points: The group of entry points under which installed packages declare more.
        makers: What makes each thing of this project, by name. It is called with the options.
        is_made: Whether an object already is such a thing.
        libraries: Functions that return further makers by name, such as the models of torchvision.
            One is called only if no table before it has the name, because importing takes seconds.
        files: What makes a thing of a file, by the ending of the file's name. It is called with the
            path and the options.
    """

    title: str
    entry_points: str
    makers: Mapping[str, Callable[..., T]]
    is_made: Callable[[object], bool]
    libraries: Sequence[Callable[[], Mapping[str, Callable[..., T]]]] = ()
    files: Mapping[str, Callable[..., T]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All names: of this project, then of other libraries, then of installed packages."""
        return list(dict.fromkeys(name for table in self._tables() for name in table))

    def has_name(self, name: str) -> bool:
        """Whether a table has this name; the path of somebody's own code is none."""
        return not _is_file(name) and any(name in table for table in self._tables())

    def make(self, given: str | T, options: Mapping[str, Any] | None = None) -> T:
        """The thing that a name or a path stands for; an object is returned as it is.

        Raises:
            ValueError: The name does not exist, an option does not exist or has a bad value,
                options were given for an object, or the object is no such thing.
        """
        if isinstance(given, str):
            return self._make_by_name_or_path(given, options)
        _refuse_options(self.title, options)
        return self._checked(given, name_of(given))

    def make_target(self, target: str, options: Mapping[str, Any] | None = None) -> T:
        """The thing at a path: ``PACKAGE.MODULE.NAME``, or ``FILE.py:NAME``.

        A class, or a function that can be called with the options alone, is called to make the
        thing. Any other function is the thing itself, with the options bound to it.

        Raises:
            ValueError: The path cannot be imported, or what it names refuses the options or is no
                such thing.
        """
        found = load(target)
        return self._checked(make_or_bind(self.title, target, found, options), target)

    def _make_by_name_or_path(self, given: str, options: Mapping[str, Any] | None) -> T:
        if _is_file(given):
            return self.make_target(given, options)
        if (ending := Path(given).suffix) in self.files:
            of_file = {given: partial(self.files[ending], given)}
            return self._checked(make_by_name(self.title, given, of_file, options), given)
        known: list[str] = []
        for table in self._tables():
            if given in table:
                return self._checked(make_by_name(self.title, given, table, options), given)
            known += table
        if _is_path(given):
            return self.make_target(given, options)
        raise _unknown(self.title, given, known)

    def _tables(self) -> Iterator[Mapping[str, Callable[..., T]]]:
        yield self.makers
        for library in self.libraries:
            yield library()
        yield {
            entry.name: partial(_load_and_make, self.title, entry)
            for entry in entry_points(group=self.entry_points)
        }

    def _checked(self, made: object, name: str) -> T:
        if not self.is_made(made):
            what = "a class" if isinstance(made, type) else f"an object of {type(made).__name__}"
            hint = f"; give an object of it, {name}(...)" if isinstance(made, type) else ""
            raise ValueError(f"{name!r} is {what}, which is no {self.title}{hint}")
        thing: T = made  # type: ignore[assignment]
        return thing


def make_by_name(
    kind: str, name: str, makers: Mapping[str, Callable[..., T]], options: Mapping[str, Any] | None
) -> T:
    """What the maker of a name returns for the options.

    Raises:
        ValueError: The name or an option does not exist, an option is missing or has a bad value,
            or the object that a package declares under the name cannot be imported.
    """
    check_name(kind, name, makers)
    given = dict(options or {})
    _check_call(kind, name, _parameters(makers[name]), given)
    try:
        return makers[name](**given)
    except TypeError as error:
        raise ValueError(f"{kind} {name!r} cannot take {given}: {error}") from error


def make_or_bind(
    kind: str, name: str, found: object, options: Mapping[str, Any] | None = None
) -> object:
    """What ``found`` returns for the options, or ``found`` itself.

    A class, and a function that the options are enough to call, are called. Another function is
    returned with the options bound, and any other object as it is.

    Raises:
        ValueError: ``found`` refuses the options, or fails; the message has the file and the line.
    """
    given = dict(options or {})
    if not (isinstance(found, type | partial) or inspect.isroutine(found)):
        _refuse_options(kind, given)
        return found
    parameters = _parameters(found)
    needed = [p for p in parameters if _is_needed(p) and p.name not in given]
    if needed and needed[0] is parameters[0] and not isinstance(found, type):
        # A reward takes the finished episode and a measure the cost: they are the thing itself.
        _check_call(kind, name, parameters[1:], given)
        return partial(found, **given) if given else found
    _check_call(kind, name, parameters, given)
    try:
        return found(**given)
    except Exception as error:
        if isinstance(error, ValueError) and _frames(error)[-1].filename.startswith(_PACKAGE):
            raise
        raise ValueError(f"{kind} {name!r} cannot be made: {_located(error)}") from error


def load(target: str) -> object:
    """The object at a path: ``PACKAGE.MODULE.NAME``, or ``FILE.py:NAME``.

    Raises:
        ValueError: There is no such file, module or name, or its code fails; the message has the
            file and the line.
    """
    if target.endswith(".py"):
        raise ValueError(f"{target} names no function; write {target}:FUNCTION")
    path, colon, name = target.rpartition(":")
    if not colon:
        path, _, name = target.rpartition(".")
    is_file = path.endswith(".py")
    if is_file and not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        module = _run_file(Path(path)) if is_file else importlib.import_module(path)
    except Exception as error:
        hint = "" if is_file else "; is its folder on PYTHONPATH?"
        raise ValueError(f"{target!r} cannot be imported: {_located(error)}{hint}") from error
    if not hasattr(module, name):
        raise ValueError(f"{path} has no function or class {name!r}")
    return getattr(module, name)


def _unknown(kind: str, name: str, known: Sequence[str]) -> ValueError:
    every = f", choose one of {', '.join(known)}" if len(known) <= _MOST_LISTED else ""
    near = f"; the nearest is {nearest(name, known)!r}" if known else ""
    own = "; your own code is given as PACKAGE.MODULE.NAME or FILE.py:NAME" if "." in name else ""
    return ValueError(f"{kind} {name!r} does not exist{near}{every}{own}")


def _refuse_options(kind: str, options: Mapping[str, Any] | None) -> None:
    if options:
        raise ValueError(
            f"the {kind} is made already, so the options {', '.join(options)} come too late; give "
            "them where it is made"
        )


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # Some functions that are written in C have no signature. They check options themselves.
        return [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)]


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a function cannot be called without this parameter."""
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.kind not in open_ended and parameter.default is inspect.Parameter.empty


def _check_call(
    kind: str, name: str, parameters: Sequence[inspect.Parameter], given: Mapping[str, Any]
) -> None:
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [parameter.name for parameter in parameters if parameter.kind in by_name]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    check_options(kind, name, given, None if takes_any else known)
    missing = [p.name for p in parameters if _is_needed(p) and p.name not in given]
    if missing:
        raise ValueError(f"{kind} {name!r} needs the option {', '.join(missing)}")


def _load_and_make(kind: str, entry: EntryPoint, /, **options: Any) -> Any:
    try:
        found = entry.load()
    except Exception as error:
        raise ValueError(
            f"{kind} {entry.name!r} is {entry.value}, which cannot be imported: {_located(error)}"
        ) from error
    return make_or_bind(kind, entry.name, found, options)


def _is_path(text: str) -> bool:
    """Whether a text that is no known name can be meant as the path of a user's own code.

    Names of timm's models have dots too, so a path must begin with a package that exists.
    """
    package, dot, _ = text.partition(".")
    if not dot or not package.isidentifier():
        return False
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _is_file(text: str) -> bool:
    return ".py:" in text or text.endswith(".py")


def _run_file(path: Path) -> ModuleType:
    # The module's name is one that no other module has: a file called torch.py must not stand in
    # for torch. It is registered because dataclasses look up the module of their class.
    name = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = _FILES[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _FILES[name]
        raise
    return module


def modules_of_files() -> tuple[ModuleType, ...]:
    """The modules that were run from files of a user's own, which no other process can import."""
    return tuple(_FILES.values())


def _located(error: Exception) -> str:
    """An error in one line: the file and the line of the user's code, then what it says."""
    said = f"{type(error).__name__}: {error}".partition("\n")[0]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    # A wrong call fails inside the library that is called, but the mistake is where it is called.
    own = [
        frame
        for frame in _frames(error)
        if not frame.filename.startswith((_PACKAGE, "<", *_LIBRARIES))
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}: {said}" if own else said


def _frames(error: Exception) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)
