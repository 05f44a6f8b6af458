"""Settings on a command line: read, checked and composed without importing PyTorch."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from amc_env.names import check_name, nearest
from amc_env.pipeline.calls import train_call
from amc_env.pipeline.choices import choices_of
from amc_env.pipeline.renamed import check_not_renamed

# What installed packages add to a group of choices without a file for it.
ENTRY_POINTS = {
    "criterion": "amc_env.criteria",
    "reward": "amc_env.rewards",
    "agent": "amc_env.agents",
    "data": "amc_env.datasets",
    "model": "amc_env.models",
    "task": "amc_env.tasks",
}
RENAMED = {"hydra.run.dir": "folder", "hydra.sweep.dir": "folder"}

# Characters that Hydra's grammar takes for themselves, and values that are meant for the grammar.
_PLAIN = re.compile(r"[\w./:+\-$%*@?|]*", re.ASCII)
_GRAMMAR = re.compile(r"""['"\[{].*|[a-z_]+\(.*\)|.*\$\{.*""", re.DOTALL)
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list, such as [a,b]",
    dict: "settings by name, such as {a: 1}",
}


class Settings:
    """What the files of a folder let a command line set.

    Args:
        configs: The folder: ``config.yaml``, and a folder of files for every group of choices.
    """

    def __init__(self, configs: Path) -> None:
        self.configs = configs
        self.choices = choices_of(configs)
        self._parser = OverridesParser.create()
        self._defaults: dict[tuple[str, ...], dict[str, Any]] = {}

    def expand(self, arguments: Sequence[str], *, is_sweep: bool) -> list[dict[str, str]]:
        """The arguments of every job, by key: one job, or in a sweep all combinations of values.

        Raises:
            ValueError: An argument is no setting, or gives several values outside of a sweep.
        """
        values = [list(self._values(argument, is_sweep=is_sweep)) for argument in arguments]
        return [
            {text.partition("=")[0]: text for text in job} for job in itertools.product(*values)
        ]

    def compose(self, arguments: Sequence[str]) -> DictConfig:
        """The whole configuration of one job, every name and type checked.

        Raises:
            ValueError: A setting or choice does not exist, or a value has the wrong type.
        """
        texts = self._rewritten(arguments)
        overrides = [self._parsed(text) for text in texts]
        for override in overrides:
            self._check_choice(override)
        chosen = [
            t for t, o in zip(texts, overrides, strict=True) if o.key_or_group in self.choices
        ]
        defaults = self._defaults_of(tuple(chosen))
        for override in overrides:
            if not override.is_delete() and not override.is_add():
                self._check_setting(override, defaults)
        return self._composed(texts)

    def _values(self, argument: str, *, is_sweep: bool) -> Iterator[str]:
        key, equals, value = argument.partition("=")
        if not equals and not key.startswith("~"):
            raise ValueError(f"{argument!r} is no setting; write NAME=VALUE, or --help for all")
        if key.startswith("hydra."):
            better = RENAMED.get(key)
            hint = f"write {better}={value}" if better else "it has no effect here; leave it out"
            raise ValueError(f"{key} is a setting of Hydra's own launcher; {hint}")
        override = self._parsed(f"{key}{equals}{quoted(value, is_sweep=is_sweep)}")
        if not override.is_sweep_override():
            yield override.input_line or ""
            return
        if not is_sweep or not override.is_discrete_sweep():
            raise ValueError(
                f"{argument} gives several values; run each of them by "
                f"{train_call('-m')}, as NAME=A,B or NAME=range(0,3)"
            )
        for each in override.sweep_string_iterator():
            yield f"{override.get_key_element()}={each}"

    def _parsed(self, argument: str) -> Override:
        try:
            override: Override = self._parser.parse_override(argument)
        except HydraException as error:
            key, _, value = argument.partition("=")
            raise ValueError(
                f"{argument} cannot be read; write a value with special characters in quotes, "
                f"as \"{key}='{value}'\""
            ) from error
        return override

    def _rewritten(self, arguments: Sequence[str]) -> list[str]:
        """The arguments for Hydra, in which a user's own parts take the place of the default ones.

        The options of a default choice are none of its replacement's, so a group that is given a
        ``_target_`` or the name of an installed package's part starts from the file ``own``.
        """
        given = dict(argument.partition("=")[::2] for argument in arguments)
        installed = {
            group: name
            for group, name in given.items()
            if group in ENTRY_POINTS
            and name not in self.choices[group]
            and name in _installed(group)
        }
        targeted = [group for group in ENTRY_POINTS if given.get(f"{group}._target_")]
        for group in targeted:
            if given.get(group, "own") != "own":
                raise ValueError(
                    f"{group}={given[group]} and {group}._target_ are both given; give one of them"
                )
        own = {*installed, *targeted} | {g for g in ENTRY_POINTS if given.get(g) == "own"}
        added = (*(f"{group}.options." for group in own), "budget.measures.")
        return [
            *(f"{group}=own" for group in sorted(own)),
            *(f"{group}.name={name}" for group, name in installed.items()),
            *(
                f"+{argument}" if argument.startswith(added) else argument
                for argument in arguments
                if argument.partition("=")[0] not in own
            ),
        ]

    def _check_choice(self, override: Override) -> None:
        group, choice = override.key_or_group, override.value()
        if override.is_delete() or group not in self.choices or choice is None:
            return
        known = [*self.choices[group], *_installed(group)]
        try:
            check_name(group, str(choice), known)
        except ValueError as error:
            if group != "model":
                raise
            raise ValueError(
                f"{error}; a network of torchvision or timm, or FILE.py:FUNCTION, is "
                f"model.name={choice}"
            ) from error

    def _check_setting(self, override: Override, defaults: Mapping[str, Any]) -> None:
        key, value = override.key_or_group, override.value()
        if key in self.choices:
            return
        check_not_renamed(key)
        if key not in defaults:
            near = nearest(key, [*defaults, *self.choices])
            raise ValueError(f"there is no setting {key!r}; the nearest is {near!r}")
        if not _fits(key, value, defaults[key]):
            expected = _TYPES[type(defaults[key])]
            raise ValueError(f"{key} is {value!r}; give {expected}{_hint(key, value)}")

    def _defaults_of(self, chosen: tuple[str, ...]) -> dict[str, Any]:
        """Every setting by its dotted key, with its value where only choices of groups are made."""
        if chosen not in self._defaults:
            plain = OmegaConf.to_container(self._composed(chosen), resolve=False)
            self._defaults[chosen] = dict(_dotted(plain, ""))
        return self._defaults[chosen]

    def _composed(self, arguments: Sequence[str]) -> DictConfig:
        try:
            with initialize_config_dir(str(self.configs), version_base="1.3"):
                config: DictConfig = compose("config", list(arguments))
                # What refers to another setting has to be found now, not in the middle of a run.
                OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(str(error).strip().partition("\n")[0]) from error
        return config


def quoted(value: str, *, is_sweep: bool) -> str:
    """A value as Hydra's grammar reads it: in quotes where it has spaces, umlauts and the like.

    In a sweep, commas part values, each of which is quoted by itself.
    """
    if _PLAIN.fullmatch(value) or _GRAMMAR.fullmatch(value):
        return value
    if is_sweep and "," in value:
        return ",".join(quoted(part.strip(), is_sweep=False) for part in value.split(","))
    # Backslashes count as such but before a quote, where the grammar wants them doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), value)
    return f"'{escaped}'"


def _hint(key: str, value: object) -> str:
    """How several values are given, for who wrote them as one."""
    if not (isinstance(value, str) and "," in value):
        return ""
    together = f", several budgets of one run as '{key}=[{value}]'"
    return f"; several values are run by {train_call('-m')}" + together * key.startswith("budget.")


def _installed(group: str) -> list[str]:
    if group not in ENTRY_POINTS:
        return []
    return sorted(entry.name for entry in entry_points(group=ENTRY_POINTS[group]))


def _dotted(node: object, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _dotted(value, f"{prefix}{key}.")


def _fits(key: str, value: object, default: object) -> bool:
    """Whether a value has the type of the default; null stands for any type."""
    if value is None or default is None or "${" in str(value):
        return True
    # Options may have more than one type, as `auto` for a number; what they are for checks them.
    if ".options." in key and isinstance(default, str):
        return not isinstance(value, bool | dict)
    if key == "env.round_to" and value == "auto":
        return True
    if ".options." in key and value == "auto":
        return not isinstance(default, bool | list | dict)
    if key.startswith("budget.") and list in (type(value), type(default)):
        # One ratio may stand for several and the other way round; more is checked by the budget.
        ratios = value if isinstance(value, list) else [value]
        return all(isinstance(r, int | float) and not isinstance(r, bool) for r in ratios)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))
