"""The configuration of a run as one checked record, and the parts that it names, made once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from amc_env import Budget, EnvSettings
from amc_env.agents import Searcher
from amc_env.agents.table import AGENT
from amc_env.agents.workers import check_device, make_engine
from amc_env.criteria import Criterion
from amc_env.criteria.table import CRITERION
from amc_env.env.budget import MEASURE
from amc_env.latency import LatencyTable
from amc_env.masks import Way
from amc_env.names import Kind, name_of
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.renamed import check_none_renamed
from amc_env.pipeline.sections import (
    AdjustSection,
    BaseSection,
    EnvSection,
    IterativeSection,
    TrainingSection,
    as_flat,
    place,
)
from amc_env.rewards import Reward, make_reward
from amc_env.rewards.functions import check_task
from amc_env.rewards.table import REWARD
from amc_env.tasks import TASK, Task
from amc_env.tensor_store import TensorStore

T = TypeVar("T")

# The reward that a run chooses by itself, the policies that it tries for it, and the fewest that
# tell rewards apart: the correlation of fewer is little but chance.
AUTO = "auto"
_TRIED_FOR_AUTO = 24
_FEWEST_TRIED = 8

# The budgets that have a setting of their own.
_RATIOS = ("flops", "params", "latency")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Named(_Section):
    """Something that is chosen by its name or by the path of a user's own code, with options."""

    name: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    target: str | None = Field(default=None, alias="_target_")

    def make(self, kind: Kind[T]) -> T:
        """The thing itself.

        Raises:
            ValueError: There is no such thing, or it refuses its options.
        """
        if self.target:
            return kind.make_target(self.target, self.options)
        if self.name is None:
            raise ValueError(f"no {kind.title} is named; give its name, or _target_=MODULE.NAME")
        return kind.make(self.name, self.options)

    def title(self) -> str:
        """What tables and files call it, where it is not made yet."""
        return self.name or (self.target or "").rpartition(".")[2].rpartition(":")[2]


class ModelSection(Named):
    """The network, and a file of its trained weights."""

    checkpoint: str | None = None


def _ratios(given: Any) -> Any:
    """One ratio, or several in the order in which they are searched; a list of one is that one."""
    if not isinstance(given, (list, tuple)):
        return _number(given)
    ratios = sorted((_number(ratio) for ratio in given), reverse=True)
    if not ratios:
        raise ValueError("the list is empty; give a ratio, or several as [0.7,0.5]")
    twice = next((one for one, other in pairwise(ratios) if one == other), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice; give every ratio once")
    return tuple(ratios) if len(ratios) > 1 else ratios[0]


def _number(given: Any) -> float:
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise ValueError(f"{given!r} is no ratio; give a number, or several as [0.7,0.5]")
    return float(given)


# What is no ratio of an original is refused by the budget itself.
Ratios = Annotated[float | tuple[float, ...], BeforeValidator(_ratios)]


class MeasureSection(Named):
    """A limit on a measure that is installed or a user's own."""

    ratio: Ratios


class BudgetSection(_Section):
    """What may be left of the original network's cost, as ratios; no limit where all are empty.

    One of the ratios may be a list; each of its ratios is a budget of its own.
    """

    flops: Ratios | None = None
    params: Ratios | None = None
    latency: Ratios | None = None
    table: str | None = None
    anywhere: bool = False
    measures: dict[str, MeasureSection] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_list(self) -> "BudgetSection":
        lists = [name for name, ratio in self._ratios().items() if isinstance(ratio, tuple)]
        if len(lists) > 1:
            raise ValueError(
                f"{lists[0]} and {lists[1]} are both lists; give several ratios for one of them"
            )
        return self

    def each(self) -> dict[str, "BudgetSection"]:
        """The section of every budget, the greatest ratio first, by the setting that it is.

        Where there is no list, the section itself by an empty text.
        """
        for name, ratios in self._ratios().items():
            if isinstance(ratios, tuple):
                return {f"budget.{name}={ratio}": self._with(name, ratio) for ratio in ratios}
        return {"": self}

    def make(self) -> Budget | None:
        """The budget of a section without a list, or None where there is no limit.

        Raises:
            ValueError: A ratio is out of range, a measure does not exist, or the table of latencies
                is missing, damaged or of another machine.
        """
        ratios: dict[str, Any] = self._ratios()
        if not ratios:
            return None
        # A measure is called by its key, where it has no other name.
        named = {
            key: m.model_copy(update={"name": m.title() or key}) for key, m in self.measures.items()
        }
        measures = {key: (m.make(MEASURE), ratios[_measure(key)]) for key, m in named.items()}
        own = {name: ratios.get(name) for name in _RATIOS}
        return Budget(**own, table=self._table(), measures=measures)

    def _table(self) -> LatencyTable | None:
        if self.table is None:
            return None
        if not Path(self.table).is_file():
            raise ValueError(
                f"budget.table is {self.table}, and there is no such file; measure it with "
                "python -m amc_env measure"
            )
        return LatencyTable.load(self.table, anywhere=self.anywhere)

    def _ratios(self) -> dict[str, float | tuple[float, ...]]:
        """What is given, by the names of the settings."""
        given = {name: getattr(self, name) for name in _RATIOS}
        given |= {_measure(key): measure.ratio for key, measure in self.measures.items()}
        return {name: ratio for name, ratio in given.items() if ratio is not None}

    def _with(self, name: str, ratio: float) -> "BudgetSection":
        """This section with another ratio of one setting."""
        measures = {
            key: m.model_copy(update={"ratio": ratio}) if _measure(key) == name else m
            for key, m in self.measures.items()
        }
        changed = {name: ratio} if name in _RATIOS else {"measures": measures}
        return self.model_copy(update=changed)


def _measure(key: str) -> str:
    """The name of the setting of a measure's ratio."""
    return f"measures.{key}.ratio"


class SplitSection(_Section):
    """How many training images serve for what."""

    calibration: int = Field(ge=1)
    validation: int = Field(ge=1)
    selection: int = Field(ge=0)
    adjustment: int = Field(ge=0)


def _check_tried(given: int) -> int:
    if given < 0 or 0 < given < _FEWEST_TRIED:
        raise ValueError(f"give 0 for none, or at least {_FEWEST_TRIED} policies")
    return given


class SearchSection(_Section):
    """How long to search, how many policies to repair at its end, and what to compare with."""

    episodes: int = Field(ge=1)
    finalists: int = Field(ge=1)
    compare: tuple[str, ...]
    storage: str | None
    workers: int = Field(default=1, ge=1)
    engine: str = "processes"


class RunsSection(_Section):
    """How many runs of a sweep or a study go on side by side, and what starts their processes."""

    workers: int = Field(default=1, ge=1)
    engine: str = "processes"


class PreparationSection(_Section):
    """Where calibration, scores and factors are kept for other runs, and how large they may be."""

    folder: str | None = None
    max_gib: float = Field(default=1.0, ge=0)

    def store(self, own: Path, *, tell: Callable[[str], None]) -> TensorStore | None:
        """Where they are kept: in the given folder, or in the run's own; None for nowhere."""
        if not self.max_gib:
            return None
        folder = Path(self.folder) if self.folder else own
        return TensorStore(folder, max_bytes=int(self.max_gib * 2**30), tell=tell)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a configuration names, made.

    Attributes:
        criterion: Ranks channels.
        reward: Judges episodes.
        task: What the network is trained for.
        budgets: Limits of the cost, the greatest first, by the settings that they are; one by an
            empty text where there is a single one. None for no limit.
        agent: Searches.
        compared: The agents that it is compared with, by name.
        env: The settings of the environment and the repair.
        names: What tables and files call the model, data, criterion, reward and agent.
    """

    criterion: Criterion
    reward: Reward
    task: Task
    budgets: Mapping[str, Budget | None]
    agent: Searcher
    compared: Mapping[str, Searcher]
    env: EnvSettings
    names: Mapping[str, str]


class RunConfig(_Section):
    """Everything about one run."""

    model: ModelSection
    data: Named
    criterion: Named
    reward: Named
    task: Named = Named(name="classification")
    budget: BudgetSection
    agent: Named
    split: SplitSection
    trust: Annotated[int, AfterValidator(_check_tried)]
    env: EnvSection
    preparation: PreparationSection = PreparationSection()
    runs: RunsSection = RunsSection()
    search: SearchSection
    base: BaseSection
    finetune: TrainingSection
    scratch: BaseSection
    masks: tuple[Way, ...]
    iterative: IterativeSection  # after what it takes values from, as the next
    adjust: AdjustSection
    seed: int = Field(ge=0)
    threads: int = Field(ge=0)
    device: str
    report: bool
    latency: bool
    folder: str | None = None
    resume: str | None = None
    compared: Mapping[str, Named] | None = None  # of a resumed run, as it began

    @classmethod
    def of(cls, composed: DictConfig) -> "RunConfig":
        """The record of what Hydra composed.

        Raises:
            ValueError: A setting does not exist or has the wrong type; the message names it.
        """
        check_none_renamed(composed)
        plain = OmegaConf.to_container(composed, resolve=True)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = place(first["loc"])
            # A whole section says by itself which of its settings is wrong.
            given = "" if isinstance(first["input"], Mapping) else f" is {first['input']!r}"
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}{given}: {message}") from error

    @property
    def chooses_reward(self) -> bool:
        """Whether the run chooses the reward by trying policies."""
        return self.reward.name == AUTO

    @property
    def tried_policies(self) -> int:
        """How many policies are tried before the search, to see how well rewards rank them."""
        return self.trust or (_TRIED_FOR_AUTO if self.chooses_reward else 0)

    def make(self) -> Parts:
        """Everything that is named, made. A reward that is still to be chosen is ``accuracy``.

        Raises:
            ValueError: Something does not exist or refuses its options, or the device is not there.
        """
        _check_device(self.device)
        check_device(torch.device(self.device), workers=self.search.workers)
        make_engine(self.search.engine)
        made: dict[str, Any] = {
            "criterion": self.criterion.make(CRITERION),
            "reward": make_reward("accuracy") if self.chooses_reward else self.reward.make(REWARD),
            "agent": self.agent.make(AGENT),
        }
        task = self.task.make(TASK)
        check_task(made["reward"], task)
        names = {key: getattr(self, key).name or name_of(part) for key, part in made.items()}
        return Parts(
            **made,
            task=task,
            budgets={name: section.make() for name, section in self.budget.each().items()},
            compared={name: agent.make(AGENT) for name, agent in self._compared().items()},
            env=replace(self.env, seed=self.seed, repair=replace(self.env.repair, seed=self.seed)),
            names={"model": self.model.title(), "data": self.data.title(), **names},
        )

    def each_budget(self) -> dict[str, "RunConfig"]:
        """The configuration of every budget, in the order and by the names of ``Parts.budgets``."""
        sections = self.budget.each().items()
        return {name: self.model_copy(update={"budget": section}) for name, section in sections}

    def as_plain(self) -> Mapping[str, Any]:
        """The resolved settings, for a file."""
        sections = ("env", "base", "adjust", "iterative", "finetune")
        records = {key: as_flat(key, getattr(self, key)) for key in sections}
        compared = {
            name: agent.model_dump(by_alias=True) for name, agent in self._compared().items()
        }
        rest = self.model_dump(by_alias=True, exclude={"resume"})
        return rest | records | {"compared": compared}

    def _compared(self) -> dict[str, Named]:
        """The agents to compare with, each as ``agent=NAME`` would have it."""
        if self.compared is not None:
            return dict(self.compared)
        found = {}
        for name in self.search.compare:
            path = CONFIGS / "agent" / f"{name}.yaml"
            plain = (
                OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {"name": name}
            )
            found[name] = Named.model_validate(plain)
        return found


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here: {why}") from error
