"""One episode's decisions, held to the budget; nothing is evaluated here."""

from math import isfinite
from typing import get_args

from amc_env.env.budget import BudgetKeeper
from amc_env.env.settings import Budgeting
from amc_env.names import check_name
from amc_env.structure import ChannelGroup
from amc_env.structure.sparsity import kept_count


class Walk:
    """The groups that an episode has decided.

    Args:
        keeper: Holds decisions to the budget.
        budgeting: How; see ``EnvSettings``.

    Attributes:
        decided: How many channels each decided group keeps, in the order of the decisions.
        last_sparsity: The executed sparsity of the last group; 0 before the first.

    Raises:
        ValueError: ``budgeting`` is another word.
    """

    def __init__(self, keeper: BudgetKeeper, budgeting: Budgeting) -> None:
        check_name("budgeting", budgeting, get_args(Budgeting))
        self.decided: dict[str, int] = {}
        self.last_sparsity = 0.0
        self._keeper = keeper
        self._budgeting = budgeting

    def decide_(self, group: ChannelGroup, asked: float) -> None:
        """Decide a group: as near to the sparsity that is asked for as its bounds allow.

        Raises:
            ValueError: The sparsity is no finite number.
        """
        if not isfinite(asked):
            raise ValueError(f"the action is {asked}; give a sparsity from 0 to 1")
        wanted = kept_count(group.channels, sparsity=min(max(asked, 0.0), 1.0))
        if self._budgeting == "scale":
            allowed = self._keeper.between(group)
        else:
            allowed = self._keeper.allowed(group, self.decided)
        # Of two numbers equally near, the larger is kept.
        count = min(reversed(allowed), key=lambda count: abs(count - wanted))
        self.decided[group.name] = count
        self.last_sparsity = 1.0 - count / group.channels

    def end_(self) -> None:
        """Spend the budget once all groups are decided, where that is how it is held."""
        if self._budgeting == "scale":
            self.decided = self._keeper.spent(self.decided)
