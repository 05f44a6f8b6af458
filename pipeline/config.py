"""One run in one record: what Hydra composed, checked."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents import Searcher, make_agent
from amc_env import Budget, EnvSettings, RepairSettings
from amc_env.criteria import Criterion, make_criterion
from amc_env.evaluation import Precision
from amc_env.rewards import Reward, make_reward
from amc_env.training import TrainingSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Named(_Section):
    """Something by its name, with options; or one's own by ``_target_``, as Hydra has it."""

    name: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    target: str | None = Field(default=None, alias="_target_")


class ModelSection(_Section):
    """The network: a name that ``python -m amc_env inspect`` knows, and trained weights."""

    name: str
    checkpoint: str | None = None


class BudgetSection(_Section):
    """What may be left, as ratios; none for no budget."""

    flops: float | None = None
    params: float | None = None


class SplitSection(_Section):
    """How many training samples calibrate, and how many rewards are paid on."""

    calibration: int = Field(default=300, ge=1)
    validation: int = Field(default=5000, ge=1)


class EnvSection(_Section):
    """Settings of the environment and the repair; see ``EnvSettings`` and ``RepairSettings``."""

    min_keep: float
    max_keep: float
    ignore: tuple[str, ...]
    round_to: int = Field(ge=1)
    batch: int = Field(ge=1)
    precision: Precision
    sampled_positions: int | None = Field(ge=1)
    ridge: float = Field(ge=0)
    sequential: bool
    match_residual_sums: bool
    norm_samples: int


class SearchSection(_Section):
    """How long to search, how many policies to repair at its end, and whom to compare with."""

    episodes: int = Field(ge=1)
    finalists: int = Field(ge=1)
    compare: tuple[str, ...]


class RunConfig(_Section):
    """Everything about one run."""

    model: ModelSection
    data: Named
    criterion: Named
    reward: Named
    budget: BudgetSection
    agent: Named
    split: SplitSection
    env: EnvSection
    search: SearchSection
    base: TrainingSettings
    finetune: TrainingSettings
    seed: int = Field(ge=0)
    threads: int = Field(ge=0)
    device: str

    @classmethod
    def of(cls, composed: DictConfig) -> "RunConfig":
        """The record of what Hydra composed.

        Raises:
            ValueError: A setting does not exist or has the wrong type; the message names it.
        """
        plain = OmegaConf.to_container(composed, resolve=True)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            # A whole section says by itself which of its settings is wrong.
            given = "" if isinstance(first["input"], Mapping) else f" is {first['input']!r}"
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}{given}: {message}") from error

    def check(self) -> None:
        """Make everything once, so that a mistake is told before any work is done.

        Raises:
            ValueError: Something does not exist or refuses its options.
        """
        _check_device(self.device)
        self.make_budget()
        self.make_criterion()
        self.make_reward()
        self.make_agent()
        for name in self.search.compare:
            self.make_agent(name)
        self.env_settings()

    def make_budget(self) -> Budget | None:
        """The budget, or None."""
        limits = self.budget.model_dump(exclude_none=True)
        return Budget(**limits) if limits else None

    def make_criterion(self) -> Criterion:
        """The criterion."""
        made = self.criterion
        return _own(made) if made.target else make_criterion(made.name, made.options)

    def make_reward(self) -> Reward:
        """The reward."""
        made = self.reward
        if made.name == "weighted":
            return make_reward(made.options)
        return _own(made) if made.target else make_reward(made.name, made.options)

    def make_agent(self, name: str | None = None) -> Searcher:
        """The agent, or another by its name with the options that it has of itself."""
        if name is not None:
            return make_agent(name)
        made = self.agent
        return _own(made) if made.target else make_agent(made.name, made.options)

    def env_settings(self) -> EnvSettings:
        """The environment's settings."""
        section = self.env
        repair = RepairSettings(
            sampled_positions=section.sampled_positions,
            ridge=section.ridge,
            sequential=section.sequential,
            match_residual_sums=section.match_residual_sums,
            norm_samples=section.norm_samples,
            seed=self.seed,
        )
        return EnvSettings(
            min_keep=section.min_keep,
            max_keep=section.max_keep,
            ignore=section.ignore,
            round_to=section.round_to,
            repair=repair,
            batch=section.batch,
            precision=section.precision,
            seed=self.seed,
        )

    def as_plain(self) -> Mapping[str, Any]:
        """The resolved settings, for a file."""
        plain = self.model_dump(by_alias=True)
        return plain | {"base": asdict(self.base), "finetune": asdict(self.finetune)}


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here: {why}") from error


def _own(section: Named) -> Any:
    try:
        return instantiate({"_target_": section.target, **section.options})
    except InstantiationException as error:
        raise ValueError(f"{section.target!r} cannot be made: {error}") from error
