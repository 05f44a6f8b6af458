"""The text of ``--help``, made from the comments of the configuration files.

A comment above or behind a setting describes it. A comment at the top of a file, before an empty
line, describes the choice that the file is.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from amc_env.pipeline.calls import train_call
from amc_env.pipeline.choices import choices_of

WIDTH = 100
_INDENT = 44
_LINE = re.compile(r"( *)(\w+):(?: +([^#]*?))?(?: +# *(.*))?")
_USAGE = f"""Find how much to prune each layer of a network, prune it, and repair what is left.

  {train_call()} [-m] [GROUP=CHOICE ...] [SETTING=VALUE ...]
  {train_call()} study=NAME [scale=smoke|cpu|gpu] [SETTING=VALUE ...]

  -m, --multirun   run every combination of values: seed=0,1,2 reward=loss,accuracy
  -h, --help       show this text

Each setting below is shown with its default."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A configuration file in words.

    Attributes:
        title: What the file is.
        settings: The value and the description of every setting, by its key within the file.
    """

    title: str
    settings: Mapping[str, tuple[str, str]]


def help_text(configs: Path) -> str:
    """Every group with its choices and every setting with its default, in lines of 100 columns."""
    main = described(configs / "config.yaml")
    lines = [_USAGE, "", "Groups and their choices"]
    for group, choices in choices_of(configs).items():
        lines += _entry(f"{group}=", ", ".join(choices), indent=16)
    lines += ["", "Settings"]
    for key, (value, text) in main.settings.items():
        lines += _entry(f"{key}={value}", text) if value else [f"  {key}: {text}"]
    for group, choices in choices_of(configs).items():
        files = {choice: described(configs / group / f"{choice}.yaml") for choice in choices}
        lines += ["", *_group(group, files)]
    return "\n".join(lines) + "\n"


def described(path: Path) -> Described:
    """What the comments of a file say."""
    lines = path.read_text(encoding="utf-8").splitlines()
    # The first line of an experiment is Hydra's.
    lines = [line for line in lines if not line.startswith("# @package")]
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    title = " ".join(line.lstrip("# ") for line in lines[:end])
    return Described(title=title, settings=dict(_settings(lines[end:])))


def _settings(lines: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    above: list[str] = []
    section = ""
    for line in lines:
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# "))
            continue
        found = _LINE.fullmatch(line)
        if found:
            indent, key, value, behind = found.groups()
            section = section if indent else key
            name = f"{section}.{key}" if indent else key
            if section != "defaults":
                yield name, (value or "", " ".join([*above, behind or ""]).strip())
        above = []


def _group(group: str, files: Mapping[str, Described]) -> Iterator[str]:
    """The choices of a group, then every setting of theirs with its defaults."""
    yield group.capitalize()
    for choice, file in files.items():
        yield from _entry(f"{group}={choice}", file.title)
    if group in ("experiment", "study"):
        return
    defaults: dict[tuple[str, str], dict[str, list[str]]] = {}
    for choice, file in files.items():
        for key, (value, text) in file.settings.items():
            if text:
                defaults.setdefault((key, text), {}).setdefault(value, []).append(choice)
    for (key, text), by_value in defaults.items():
        chosen = [choice for choices in by_value.values() for choice in choices]
        # A name is what the choice is for, and stands for itself.
        if len(by_value) == 1 and len(chosen) == len(files):
            yield from _entry(f"{group}.{key}={next(iter(by_value))}", text)
        else:
            said = "; ".join(
                f"{value} for {', '.join(choices)}" for value, choices in by_value.items()
            )
            yield from _entry(f"{group}.{key}", text if key == "name" else f"{text} ({said})")


def _entry(left: str, text: str, *, indent: int = _INDENT) -> list[str]:
    """A setting and its description, side by side where there is room for both."""
    first = f"  {left}"
    gap = " " * indent
    body = textwrap.wrap(
        text, WIDTH, initial_indent=gap, subsequent_indent=gap, break_on_hyphens=False
    ) or [gap]
    if len(first) < indent:
        return [f"{first}{body[0][len(first) :]}".rstrip(), *body[1:]]
    return [first, *(line for line in body if line.strip())]
