"""The command line of a study, and its runs with all their settings, without importing PyTorch."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, ValidationError

from amc_env.files import write_text
from amc_env.names import check_name
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.calls import train_call
from amc_env.pipeline.output import check_output
from amc_env.pipeline.overrides import Settings
from amc_env.pipeline.resume import folder_to_resume
from amc_env.studies import PLAN_FILE
from amc_env.studies.study import Cell, Scale, Study, cells, read_study

RUNS = "runs"
_KEYS = ("study", "scale", "folder")
# The table shows neither the pages of runs nor how fast their networks are.
_LEFT_OUT = ("report=false", "latency=false")


class Order(BaseModel):
    """Which study is to be run, and how; ``study.json`` in its folder.

    Attributes:
        study: Its name.
        scale: The name of its scale.
        settings: Further settings of every run, which take the place of the study's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    scale: str
    settings: tuple[str, ...] = ()

    def command(self, folder: Path) -> str:
        """The command that begins the study, and goes on with it."""
        own = (f"study={self.study}", f"scale={self.scale}", *self.settings, f"folder={folder}")
        return train_call(*own)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a study.

    Attributes:
        cell: Where in the grid it is.
        folder: Where it writes.
        overrides: Its settings, as a command line would give them.
        settings: Its whole configuration, checked.
    """

    cell: Cell
    folder: Path
    overrides: tuple[str, ...]
    settings: DictConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its runs.

    Attributes:
        order: What was asked for.
        study: The study.
        scale: Its scale.
        folder: Where all of it is written.
        runs: The runs, in the order in which they are run.
    """

    order: Order
    study: Study
    scale: Scale
    folder: Path
    runs: tuple[PlannedRun, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the study's work."""
        return {**self.study.options, **self.scale.options}

    def write(self) -> None:
        """Make the folder and note the order in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / PLAN_FILE, self.order.model_dump_json(indent=2) + "\n")


def read_plan(arguments: Sequence[str]) -> Plan:
    """The study that a command line asks for; the same command goes on with one that was begun.

    Raises:
        ValueError: An argument is wrong, or the folder holds something else.
    """
    resumed = folder_to_resume(arguments)
    if resumed is not None:
        return _planned(_resumed(resumed, arguments), resumed)
    option = next((text for text in arguments if text.startswith("-")), None)
    if option is not None:
        raise ValueError(f"a study is many runs by itself; leave {option} out")
    given = dict(text.partition("=")[::2] for text in arguments if _key(text) in _KEYS)
    settings = tuple(text for text in arguments if _key(text) not in _KEYS)
    if any(_key(text) == "seed" for text in settings):
        raise ValueError("the seeds of a study stand in its file; leave seed out")
    order = Order(study=given["study"], scale=given.get("scale", "smoke"), settings=settings)
    folder = Path(given.get("folder") or f"runs/study-{order.study}-{order.scale}")
    _check_folder(folder, order)
    return _planned(order, folder)


def _resumed(folder: Path, arguments: Sequence[str]) -> Order:
    others = [text for text in arguments if _key(text) != "resume"]
    if others:
        raise ValueError(f"a study goes on with its own settings; leave {' '.join(others)} out")
    return _read_order(folder)


def _check_folder(folder: Path, order: Order) -> None:
    """Refuse a folder that holds anything but this very study."""
    if not (folder / PLAN_FILE).is_file():
        check_output(folder)
        return
    before = _read_order(folder)
    if before != order:
        raise ValueError(
            f"the study in {folder} was begun by {before.command(folder)}; repeat that to go on "
            "with it, or give another folder=FOLDER"
        )


def _read_order(folder: Path) -> Order:
    path = folder / PLAN_FILE
    try:
        return Order.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise ValueError(f"{path} is damaged; begin the study in another folder") from error


def _planned(order: Order, folder: Path) -> Plan:
    study = read_study(order.study)
    check_name(f"scale of study {study.name}", order.scale, study.scales)
    scale: Scale = dict(study.scales)[order.scale]  # type: ignore[index]
    _check_needs(scale, order)
    composed = _Composed()
    runs = []
    for number, cell in enumerate(cells(study, scale)):
        overrides = _overrides(study, scale, cell, order)
        runs.append(
            PlannedRun(
                cell=cell,
                folder=folder / RUNS / _folder_name(number, cell),
                overrides=overrides,
                settings=composed.settings(overrides, seed=cell.seed),
            )
        )
    return Plan(order=order, study=study, scale=scale, folder=folder, runs=tuple(runs))


class _Composed:
    """Configurations, of which those that differ in the seed alone are composed once."""

    def __init__(self) -> None:
        self._settings = Settings(CONFIGS)
        self._known: dict[tuple[str, ...], DictConfig] = {}

    def settings(self, overrides: Sequence[str], *, seed: int) -> DictConfig:
        """The checked configuration of a run."""
        others = tuple(text for text in overrides if _key(text) != "seed")
        if others not in self._known:
            self._known[others] = self._settings.compose(others)
        return changed(self._known[others], seed=seed)


def _check_needs(scale: Scale, order: Order) -> None:
    given = {_key(text) for text in order.settings}
    # Who chooses other data needs no file of these.
    missing = [need for need in scale.needs if not {need, need.partition(".")[0]} & given]
    if missing:
        raise ValueError(
            f"study={order.study} scale={order.scale} needs files of yours; give "
            f"{' and '.join(f'{need}=FILE' for need in missing)}"
        )


def _overrides(study: Study, scale: Scale, cell: Cell, order: Order) -> tuple[str, ...]:
    """The settings of a run; of those that are given more than once, the last holds.

    What is chosen later in a group leaves no options of what was chosen there before.
    """
    cell_settings = (*cell.settings, f"seed={cell.seed}")
    own = (*_LEFT_OUT, *study.settings, *scale.settings, *cell_settings)
    by_key: dict[str, str] = {}
    for text in (*own, *order.settings):
        stale = f"{_key(text)}.options."
        by_key = {key: known for key, known in by_key.items() if not key.startswith(stale)}
        by_key[_key(text)] = text
    return tuple(by_key.values())


def _folder_name(number: int, cell: Cell) -> str:
    name = "_".join([*cell.values.values(), f"seed={cell.seed}"])
    return f"{number:03d}_" + re.sub(r"[^\w.=-]+", "-", name)


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def as_plain(settings: DictConfig) -> dict[str, Any]:
    """A configuration as nested dictionaries."""
    plain: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    return plain


def changed(settings: DictConfig, **others: Any) -> DictConfig:
    """A copy of a configuration with other values of some settings."""
    config: DictConfig = OmegaConf.create({**as_plain(settings), **others})
    return config
