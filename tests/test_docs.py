"""The code in README and docs runs, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", CODE)
def test_code_blocks_run(
    block: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})
    assert capsys.readouterr().err == ""


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


def test_every_dependency_has_its_line() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)\]", project, re.S | re.M)
    assert listed is not None
    names = re.findall(r'"([a-z0-9-]+)', listed[1])
    table = (ROOT / "docs" / "dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in table] == []
