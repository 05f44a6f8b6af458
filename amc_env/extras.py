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
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {' and '.join(missing)}, which is not installed; install the extra: "
            f"pip install 'amc-env[{extra}]'"
        )
