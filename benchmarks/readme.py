"""Writes the tables of README.md anew from those of docs/results, which commands have made.

Each stands behind a comment that says where it is from and which of its columns are shown:
``<!-- PAGE, HEADING: COLUMN | COLUMN = NAME -->``. It is the first table below the heading or,
where there is none, of the page.
"""

import re
from pathlib import Path

from amc_env.files import write_text

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

_SOURCE = re.compile(r"<!-- (docs/results/[\w.]+)(?:, ([^:]+))?: (.+) -->\n")
_TABLE = re.compile(r"(?:\|.*\n)*")


def refreshed(text: str, *, root: Path = ROOT) -> str:
    """A page with all tables that stand behind a source copied anew.

    Raises:
        ValueError: A page has no such table or column.
    """
    parts, at = [], 0
    for source in _SOURCE.finditer(text):
        page, heading, columns = source.groups()
        parts += [text[at : source.end()], table(root / page, heading, columns.split(" | "))]
        behind = _TABLE.match(text, source.end())
        at = behind.end() if behind else source.end()
    return "".join([*parts, text[at:]])


def table(page: Path, heading: str | None, columns: list[str]) -> str:
    """Some columns of a page's table, as ``COLUMN`` or ``COLUMN = NAME``.

    Raises:
        ValueError: There is no such table or column.
    """
    text = page.read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"(?:^\|.*\n)+", text, re.M)
    if not found:
        raise ValueError(f"{page.name} has no table below {heading!r}; name a heading that has one")
    header, rules, *rows = (_cells(line) for line in found[0].splitlines())
    chosen = [[part.strip() for part in column.partition(" = ")] for column in columns]
    unknown = next((name for name, _, _ in chosen if name not in header), None)
    if unknown:
        raise ValueError(f"{page.name} has no column {unknown!r}; it has {', '.join(header)}")
    places = [header.index(name) for name, _, _ in chosen]
    names = [shown or name for name, _, shown in chosen]
    lines = [names, *([cells[place] for place in places] for cells in (rules, *rows))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main() -> None:
    """Write the page."""
    write_text(README, refreshed(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
