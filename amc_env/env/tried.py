"""The networks that an environment has tried, by the numbers of channels that they keep."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from typing_extensions import override

from amc_env.env.trial import Outcome, Trial

Kept = tuple[int, ...]


class Tried:
    """Outcomes of all policies until now, and the trials that somebody goes on with.

    Another process is given an empty one.
    """

    def __init__(self) -> None:
        self._outcomes: dict[Kept, dict[int, Outcome]] = {}
        # A trial holds a network, so it lives only as long as somebody goes on with it.
        self._trials: WeakValueDictionary[Kept, Trial] = WeakValueDictionary()

    def trial(self, kept: Kept, make: Callable[[dict[int, Outcome]], Trial]) -> Trial:
        """The trial that is held, or one that ``make`` makes with the outcomes that are known."""
        trial = self._trials.get(kept)
        if trial is None:
            trial = self._trials[kept] = make(self._outcomes.setdefault(kept, {}))
        return trial

    def known(self, kept: Kept) -> dict[int, Outcome]:
        """The known outcomes by number of samples."""
        return self._outcomes.get(kept, {})

    def seen(self, kept: Kept) -> int:
        """How many samples the trial that is held has been evaluated on."""
        trial = self._trials.get(kept)
        return trial.samples if trial else 0

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Tried, ()
