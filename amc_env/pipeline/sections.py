"""Sections of the settings that fill the records of other modules."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from amc_env import EnvSettings, RepairSettings
from amc_env.names import check_name
from amc_env.pipeline.rounds import IterativeSettings
from amc_env.training import TrainingSettings

# A section is flat where its record holds another one; by section, the field that holds it.
_INNER = {"env": "repair", "iterative": "training"}
# Set by `seed`, and by the settings of a training themselves.
_NOT_GIVEN = {"seed", "training"}


def as_flat(section: str, record: Any) -> dict[str, Any]:
    """The settings of a section by name, as the section was given."""
    plain = asdict(record)
    inner = plain.pop(_INNER[section]) if section in _INNER else {}
    return {name: value for name, value in (plain | inner).items() if name not in _NOT_GIVEN}


def place(parts: tuple[int | str, ...]) -> str:
    """The dotted name of a setting from the place where it stands in the records."""
    is_inner = len(parts) > 1 and _INNER.get(str(parts[0])) == parts[1]
    return ".".join(str(part) for part in (parts[:1] + parts[2:] if is_inner else parts))


def _known_to(*records: type) -> BeforeValidator:
    """Refuses what is a field of none of the records: pydantic would skip it in silence."""
    known = [f.name for record in records for f in fields(record) if f.name not in _NOT_GIVEN]

    def check(given: Any) -> Any:
        for name in given if isinstance(given, Mapping) else ():
            check_name("setting", name, known)
        return given

    return BeforeValidator(check)


def _holding(name: str, record: type) -> BeforeValidator:
    """Takes a flat section as a record that holds another one by this name."""
    inner = {f.name for f in fields(record)}

    def nest(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        held = {key: value for key, value in given.items() if key in inner}
        return {key: value for key, value in given.items() if key not in inner} | {name: held}

    return BeforeValidator(nest)


EnvSection = Annotated[
    EnvSettings,
    _holding(_INNER["env"], RepairSettings),
    _known_to(EnvSettings, RepairSettings),
]
IterativeSection = Annotated[
    IterativeSettings,
    _holding(_INNER["iterative"], TrainingSettings),
    _known_to(IterativeSettings, TrainingSettings),
]
TrainingSection = Annotated[TrainingSettings, _known_to(TrainingSettings)]


def _without_teacher(settings: TrainingSettings) -> TrainingSettings:
    if settings.distil:
        raise ValueError(
            f"distil is {settings.distil}, but the base network has no teacher to learn from; give "
            "base.distil=0"
        )
    return settings


def _without_labels(settings: TrainingSettings) -> TrainingSettings:
    if settings.distil != 1:
        raise ValueError(
            f"distil is {settings.distil}, but the adjustment reads no labels; give adjust.distil=1"
        )
    return settings


BaseSection = Annotated[TrainingSection, AfterValidator(_without_teacher)]
AdjustSection = Annotated[TrainingSection, AfterValidator(_without_labels)]
