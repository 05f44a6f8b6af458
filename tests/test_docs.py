"""The code in README and docs runs, and their links lead somewhere."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch_pruning
from latency_tables import by_law, in_eights
from omegaconf import OmegaConf

from amc_env.env.observation import feature_names
from amc_env.latency import LatencyTable, measuring
from amc_env.latency.measuring import measure
from amc_env.models import NamedModel
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.choices import choices_of

KEY = object()
ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SLOW = {"reading-the-report": pytest.mark.slow}


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


CODE = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page not in TUTORIALS
    for number, block in enumerate(blocks(page))
]
# The blocks of a tutorial go on from each other.
CODE += [
    pytest.param(
        "\n".join(blocks(page)), id=page.stem, marks=[pytest.mark.slow] * (page.stem in SLOW)
    )
    for page in TUTORIALS
]


@pytest.mark.parametrize("block", CODE)
def test_code_blocks_run(
    block: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    # A busy machine's clock could put the page's budget for latency out of reach.
    monkeypatch.setattr(measuring, "measure", _measured_without_a_clock)
    exec(compile(block, "block", "exec"), {"__name__": "block"})
    assert capsys.readouterr().err == ""


def _measured_without_a_clock(network: NamedModel, out: Path, **options: Any) -> LatencyTable:
    table = by_law(measure(network, out, **options), in_eights)
    table.save(out)
    return table


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_pages_become_a_site_without_a_warning(tmp_path: Path) -> None:
    options = ["-q", "-W", "--keep-going", "-E", "-d", f"{tmp_path / 'trees'}"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", f"{tmp_path / 'site'}"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "Make a trained CNN smaller" in (tmp_path / "site" / "index.html").read_text()
    assert "ChannelPruningEnv" in (tmp_path / "site" / "api.html").read_text()


def test_every_page_is_reached_from_the_first() -> None:
    listed = (ROOT / "docs" / "index.md").read_text().split()
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    assert [p for p in pages if p.name != "index.md" and str(p.with_suffix("")) not in listed] == []


def test_the_table_of_observations_is_that_of_the_environment() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.M)
    names = feature_names(has_errors=True)
    assert rows == [(str(number), name) for number, name in enumerate(names)]


def test_settings_that_other_tools_are_translated_to_exist() -> None:
    page = (ROOT / "docs" / "coming-from.md").read_text().partition("\n## ")[2]
    given = [word for span in re.findall(r"`([^`]*)`", page) for word in span.split()]
    pairs = [word.split("=", 1) for word in given if re.match(r"[a-z_.]+=", word)]
    settings = [(k, v) for k, v in pairs if "." in k or k in choices_of(CONFIGS)]
    assert len(settings) > 40
    for key, value in settings:
        group, _, rest = key.partition(".")
        if not rest:
            assert value in ("", *choices_of(CONFIGS)[group]), key
        elif group in choices_of(CONFIGS):
            files = [OmegaConf.load(path) for path in (CONFIGS / group).glob("*.yaml")]
            assert any(OmegaConf.select(file, rest, default=KEY) != KEY for file in files), key
        else:
            config = OmegaConf.load(CONFIGS / "config.yaml")
            assert OmegaConf.select(config, key, default=KEY) != KEY, key


def test_options_of_torch_pruning_that_are_translated_exist() -> None:
    page = (ROOT / "docs" / "coming-from.md").read_text().partition("\n## Torch-Pruning")[2]
    left = " ".join(re.findall(r"^\| (.*?) \|", page, re.M))
    known = inspect.signature(torch_pruning.pruner.BasePruner).parameters
    importances = re.findall(r"`(\w+Importance)", left)
    options = re.findall(r"`([a-z]\w+)(?:=[\d.]+)?`", left)
    assert len(options) >= 10
    assert len(importances) >= 8
    assert [name for name in options if name not in known] == []
    assert [name for name in importances if not hasattr(torch_pruning.importance, name)] == []


def test_every_dependency_has_its_line() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)\]", project, re.S | re.M)
    assert listed is not None
    names = re.findall(r'"([a-z0-9-]+)', listed[1])
    table = (ROOT / "docs" / "dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in table] == []
