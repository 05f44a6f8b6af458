"""Shows how far the analysis of a large network has come."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from typing_extensions import override

_LOGGER = logging.getLogger("amc_env.structure")
_PATIENCE_S = 2.0


@contextmanager
def progress_shown(
    write: Callable[[str], object], *, after_s: float = _PATIENCE_S
) -> Iterator[None]:
    """Pass the progress messages of a ``ChannelGraph`` that is built inside to ``write``.

    Nothing is written in the first ``after_s`` seconds, and at most one line in as many after.
    """
    handler, level = _Progress(write, after_s), _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


class _Progress(logging.Handler):
    """Passes messages on that come late enough."""

    def __init__(self, write: Callable[[str], object], after_s: float) -> None:
        super().__init__(logging.INFO)
        self._write = write
        self._after_s = after_s
        self._start = self._last = time.monotonic()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._last >= self._after_s:
            self._last = now
            seconds = round(now - self._start)
            self._write(f"analysing the structure, {seconds} s: {record.getMessage()}")
