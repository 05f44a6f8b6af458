"""The settings of an environment."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from amc_env.env.budget import Budget, check_bounds
from amc_env.names import check_name
from amc_env.precision import Precision
from amc_env.repair.settings import RepairSettings

Budgeting = Literal["clip", "scale"]


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Which channels may be cut, how the weights are repaired, and how networks are evaluated.

    Attributes:
        min_keep: Fewest channels that each group keeps, as a ratio of its channels (AMC: 0.2).
        max_keep: Most channels that each group keeps, as a ratio of its channels.
        ignore: Names of modules whose output channels are never cut.
        round_to: A group keeps a multiple of this many channels, or all of them. ``auto`` is the
            multiple that the steps in the budget's table of latencies favour.
        budgeting: How actions are held to the budget. ``clip`` executes every action as far as the
            groups after it can still pay for it, as AMC does, so the last groups pay, and what is
            not asked for is not spent. ``scale`` executes every action, and at the end of the
            episode multiplies the channels of all groups by one factor that spends the budget.
        observe_errors: Whether observations also have the relative errors of the repair when the
            group keeps 75, 50 and 25 % of its channels.
        repair: Settings of the repair of the weights.
        evaluation_batch: Validation samples in one forward pass.
        precision: Numeric precision of the forward passes that rewards need. ``auto`` measures
            once, when the environment is made, which is fastest; see ``Evaluator``. As a clock
            decides, two runs may come to different choices; ``float32`` gives equal runs.
        seed: Seed of rewards that draw random numbers.

    Raises:
        ValueError: ``min_keep`` and ``max_keep`` are not ratios in order, a number is below 1, or
            ``budgeting`` is another word.
    """

    min_keep: float = 0.2
    max_keep: float = 1.0
    ignore: tuple[str, ...] = ()
    round_to: int | Literal["auto"] = 1
    budgeting: Budgeting = "scale"
    observe_errors: bool = False
    repair: RepairSettings = field(default_factory=RepairSettings)
    evaluation_batch: int = 100
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_bounds(self.min_keep, self.max_keep)
        check_name("budgeting", self.budgeting, get_args(Budgeting))
        for name in ("round_to", "evaluation_batch"):
            given = getattr(self, name)
            is_auto = name == "round_to" and given == "auto"
            if not is_auto and (isinstance(given, str) or given < 1):
                raise ValueError(f"{name} is {given}; give 1 or more")

    def multiple(self, budget: Budget | None) -> int:
        """The number that ``round_to`` stands for.

        Raises:
            ValueError: It is ``auto``, and the budget has no table of latencies.
        """
        if self.round_to != "auto":
            return self.round_to
        if budget is None or budget.table is None:
            raise ValueError(
                "round_to is auto, but the budget has no table of latencies to take the multiple "
                "from; give budget.table, or a number"
            )
        return budget.table.multiple
