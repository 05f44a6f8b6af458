"""A study as its file describes it, without importing PyTorch."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from amc_env.names import check_name
from amc_env.studies import STUDIES

# The axis of a study that shows the networks of several stages of each run.
STAGE = "stage"

Overrides = tuple[str, ...]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figures(_Record):
    """What a paper prints about one network.

    Attributes:
        accuracy: Per cent of the test images.
        top5: Per cent of the test images whose class is among five.
        params: Number of parameters.
        macs: Multiply-accumulates, in millions.
        note: Anything else, in words.
    """

    accuracy: float | None = None
    top5: float | None = None
    params: int | None = None
    macs: float | None = None
    note: str = ""


class Published(_Record):
    """What a paper says of its experiment.

    Attributes:
        setting: Its data, network, trainings and the like, by what they are.
        original: The networks before pruning, by their name or by ``original``.
        rows: The networks of its table, by the names of the axes' values, joined by commas.
    """

    setting: Mapping[str, str] = Field(default_factory=dict)
    original: Figures = Figures()
    rows: Mapping[str, Figures] = Field(default_factory=dict)


class Picture(_Record):
    """A picture of accuracies.

    Attributes:
        x: The axis whose values are numbers, or ``MACs``; without one, rows stand below each other.
        lines: The axes whose values are lines of their own; none for one line. Of rows below each
            other, the last of them is their colour.
    """

    x: str | None = None
    lines: tuple[str, ...] = ()


class Scale(_Record):
    """How large a study is run.

    Attributes:
        settings: Settings of every run at this scale.
        seeds: Seeds of every row.
        axes: Axes that take the place of the study's, or come to them.
        options: Options of the study's work that take the place of the study's.
        differences: In which ways the scale differs from the paper, beyond what settings tell.
        needs: Settings that only the user knows, such as ``data.options.path``.
    """

    settings: Overrides = ()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    axes: Mapping[str, Mapping[str, Overrides]] = Field(default_factory=dict)
    options: Mapping[str, Any] = Field(default_factory=dict)
    differences: tuple[str, ...] = ()
    needs: Overrides = ()


class Study(_Record):
    """What is run, what a paper says about it, and what the table shows.

    Attributes:
        name: Of its file.
        document: Authors, title, year, and the tables or figures.
        claim: What the paper claims, in a sentence or two.
        work: What a run does and what is shown: ``prune``, or a name of ``amc_env.studies.works``.
        options: Options of that function.
        settings: Settings of every run.
        axes: What is varied: the values of every axis by name, each with its settings.
        without: Values of several axes that are not run together.
        reference: Values of axes. Every row is compared with the row that has these values in
            place of its own.
        networks: The networks of each run that are rows, by their stage.
        columns: Further columns of the table; see ``amc_env.studies.rows``.
        differences: In which ways the study differs from the paper at any scale.
        published: What the paper says.
        picture: A picture, where the paper has one.
        scales: By name.
    """

    name: str
    document: str
    claim: str
    work: Literal["prune", "disorder", "distributions", "map_entropy", "validity"] = "prune"
    options: Mapping[str, Any] = Field(default_factory=dict)
    settings: Overrides = ()
    axes: Mapping[str, Mapping[str, Overrides]] = Field(default_factory=dict)
    without: tuple[Mapping[str, str], ...] = ()
    reference: Mapping[str, str] = Field(default_factory=dict)
    networks: tuple[str, ...] = ("finetuned",)
    columns: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    published: Published = Published()
    picture: Picture | None = None
    scales: Mapping[Literal["smoke", "cpu", "gpu"], Scale]

    @model_validator(mode="after")
    def _is_sound(self) -> "Study":
        for scale in self.scales.values():
            axes = self.axes_at(scale)
            for axis, value in self.reference.items():
                check_name("axis", axis, axes)
                check_name(f"value of axis {axis}", value, axes[axis])
        return self

    def axes_at(self, scale: Scale) -> dict[str, Mapping[str, Overrides]]:
        """The axes at a scale, and behind them that of several stages where there is one."""
        networks = {STAGE: dict.fromkeys(self.networks, ())} if len(self.networks) > 1 else {}
        return {**self.axes, **scale.axes, **networks}


class Cell(_Record):
    """One run of a study.

    Attributes:
        values: The values of the axes.
        settings: The settings that they stand for.
        seed: The seed.
    """

    values: Mapping[str, str]
    settings: Overrides
    seed: int


def read_study(name: str) -> Study:
    """The study of a name.

    Raises:
        ValueError: There is no such study, or its file is wrong.
    """
    check_name("study", name, sorted(path.stem for path in STUDIES.glob("*.yaml")))
    plain = OmegaConf.to_container(OmegaConf.load(STUDIES / f"{name}.yaml"))
    try:
        return Study.model_validate({"name": name, **_mapping(plain)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"study {name!r}: {where}: {first['msg']}") from error


def cells(study: Study, scale: Scale) -> list[Cell]:
    """All runs: every combination of values, and of each every seed."""
    axes = {name: values for name, values in study.axes_at(scale).items() if name != STAGE}
    found = []
    for chosen in product(*(values.items() for values in axes.values())):
        values = dict(zip(axes, (value for value, _ in chosen), strict=True))
        settings = tuple(text for _, texts in chosen for text in texts)
        # A combination is left out where it has all values of an exception.
        if not any({**values, **exception} == values for exception in study.without):
            found += [Cell(values=values, settings=settings, seed=seed) for seed in scale.seeds]
    return found


def key_of(values: Sequence[str]) -> str:
    """The name of a row in ``Published.rows``."""
    return ", ".join(values)


def _mapping(plain: object) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise ValueError(f"a study is a mapping, but this file holds {type(plain).__name__}")
    return {str(key): value for key, value in plain.items()}
