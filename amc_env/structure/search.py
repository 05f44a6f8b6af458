"""Finds out which groups make a trial fail when all groups are tried at once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)
# More suspects than this take longer to try one by one than a search among all groups.
_FEW = 8


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial failed, and the groups that are most likely the cause; none if unknown."""

    reason: str
    suspects: frozenset[str] = frozenset()


Trial = Callable[[Sequence[str]], Failure | None]


def failing_groups(names: Sequence[str], trial: Trial, *, what: str) -> dict[str, str]:
    """The reason for every group that has to be left out so that the others pass together.

    Args:
        names: The groups, in an order in which earlier ones are preferred.
        trial: Tries some groups together and says why they fail, None if they pass.
        what: What the trial is, for the progress messages in the log.
    """
    found = _Search(names, trial, what)
    failure = found.fail(found.todo) if names else None
    # A trial that fails even with no group at all says nothing about any of them, as in a detector
    # whose regions depend on values. Searching it would take two trials for every group.
    if failure is not None and (nothing := found.fail([])) is not None:
        return dict.fromkeys(names, nothing.reason)
    while failure is not None:
        if not found.refuse_suspects(failure):
            found.refuse_first(failure)
        failure = found.fail(found.todo) if found.todo else None
    return found.reasons


class _Search:
    """The groups that pass together so far, those that are still open, and the refused ones."""

    def __init__(self, names: Sequence[str], trial: Trial, what: str) -> None:
        self.passing: list[str] = []
        self.todo = list(names)
        self.reasons: dict[str, str] = {}
        self._total = len(names)
        self._trial = trial
        self._what = what

    def fail(self, more: Sequence[str]) -> Failure | None:
        """Why ``more`` groups fail together with those that pass."""
        _LOG.info(
            "%s: %d of %d groups are settled, %d are tried together",
            self._what,
            self._total - len(self.todo),
            self._total,
            len(self.passing) + len(more),
        )
        return self._trial([*self.passing, *more])

    def refuse_suspects(self, failure: Failure) -> bool:
        """Refuse the suspects that fail, and say whether there was one."""
        # The place of a failure usually names its cause, which spares the search through all
        # groups. It is not a proof: a layer that reads two groups may fail because of one.
        suspects = [name for name in self.todo if name in failure.suspects]
        if len(suspects) > _FEW:
            return False
        for name in suspects:
            alone = self.fail([name])
            if alone is not None:
                self._refuse(name, alone)
        if any(name in self.reasons for name in suspects):
            return True
        return bool(suspects) and self._refuse_in_company(suspects, failure)

    def _refuse_in_company(self, suspects: list[str], failure: Failure) -> bool:
        """Refuse the suspects that fail beside the others, where those pass without them."""
        others = [name for name in self.todo if name not in suspects]
        if self.fail(others) is not None:
            return False
        for name in suspects:
            # Of a single one it is known that all fail with it.
            beside = failure if len(suspects) == 1 else self.fail([*others, name])
            if beside is None:
                others.append(name)
            else:
                self._refuse(name, beside)
        self.passing += others
        self.todo = []
        return True

    def refuse_first(self, failure: Failure) -> None:
        """Refuse the first group that fails together with all before it.

        Args:
            failure: Why all groups together fail.
        """
        # Groups may fail only in company, so trying each by itself is not enough, and trying
        # ever longer beginnings one by one takes as many trials as there are groups. Beginnings
        # that double in length and a bisection find the first failure in about 2 log2(n).
        passes, fails = 0, 1
        while fails < len(self.todo) and (shorter := self.fail(self.todo[:fails])) is None:
            passes, fails = fails, 2 * fails
        if fails < len(self.todo):
            failure = shorter or failure
        fails = min(fails, len(self.todo))
        while fails - passes > 1:
            middle = (passes + fails) // 2
            shorter = self.fail(self.todo[:middle])
            if shorter is None:
                passes = middle
            else:
                fails, failure = middle, shorter
        culprit = self.todo[passes]
        self.passing += self.todo[:passes]
        self.todo = self.todo[passes:]
        self._refuse(culprit, failure)

    def _refuse(self, name: str, failure: Failure) -> None:
        self.reasons[name] = failure.reason
        self.todo.remove(name)
