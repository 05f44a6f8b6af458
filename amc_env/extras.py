"""Packages that only some features need: what is missing, in one sentence."""

import importlib.util


def need(what: str, *packages: str, extra: str) -> None:
    """Refuse a feature whose packages are not installed.

    Args:
        what: The feature, such as ``the format onnx``.
        packages: The packages that it imports.
        extra: The extra of this package that installs them.

    Raises:
        ValueError: A package is missing; the message has the command that installs it.
    """
    _refuse_missing(what, packages, f"install the extra: pip install 'amc-env[{extra}]'")


def need_package(what: str, package: str) -> None:
    """Refuse a feature whose package is not installed, where no extra installs it.

    Raises:
        ValueError: The package is missing; the message has the command that installs it.
    """
    _refuse_missing(what, (package,), f"install it: pip install {package}")


def _refuse_missing(what: str, packages: tuple[str, ...], command: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"{what} needs {names}, which is not installed; {command}")
