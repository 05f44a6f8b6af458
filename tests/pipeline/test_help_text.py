import re
from collections.abc import Iterator

import yaml

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.choices import choices_of
from amc_env.pipeline.help_text import WIDTH, described, help_text

TEXT = help_text(CONFIGS)


def leaves(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix


def test_every_setting_is_described() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        group = path.parent.name
        if group in ("experiment", "study"):
            continue
        found = described(path).settings
        plain = yaml.safe_load(path.read_text())
        plain.pop("defaults", None)
        for key in leaves(plain):
            # What a name is for stands in the title of its file, and `{}` has nothing to set.
            if key != "name" and (key != "options" or path.stem == "own"):
                assert found[key][1], f"{path}: {key}"
                full = key if path.stem == "config" else f"{group}.{key}"
                assert re.search(rf"^  {re.escape(full)}(=|\s|$)", TEXT, re.M), full


def test_every_choice_is_described() -> None:
    for group, choices in choices_of(CONFIGS).items():
        for choice in choices:
            assert described(CONFIGS / group / f"{choice}.yaml").title, choice
            assert re.search(rf"^  {group}={choice}\s", TEXT, re.M), choice


def test_the_text_fits_its_width() -> None:
    assert max(map(len, TEXT.splitlines())) <= WIDTH
