"""The pages of finished studies, with their pictures and without the paths of a machine.

``uv run python -m benchmarks.study_pages runs/study-NAME-cpu --out docs/results/studies``
"""

import argparse
import re
import shutil
from pathlib import Path

from amc_env.files import write_text
from amc_env.studies.page import TABLE

# Pictures with more points than fit here are better as pixels.
_LARGEST_SVG = 150_000


def publish(study: Path, out: Path) -> Path:
    """Write a study's page with its pictures into a folder; the page.

    Raises:
        ValueError: The folder holds no table of a study.
    """
    table = study / f"{TABLE}.md"
    if not table.is_file():
        raise ValueError(f"{study} holds no {TABLE}.md; give the folder of a study")
    text = without_paths(table.read_text(encoding="utf-8"))
    name = text.partition(",")[0].removeprefix("# ")
    out.mkdir(parents=True, exist_ok=True)
    for picture in re.findall(r"\]\(([^)]+\.svg)\)", text):
        source = study / picture
        if source.stat().st_size > _LARGEST_SVG:
            source = source.with_suffix(".png")
        own = f"{name}-{source.name}"
        shutil.copyfile(source, out / own)
        text = text.replace(f"({picture})", f"({own})")
    page = out / f"{name}.md"
    write_text(page, text)
    return page


def without_paths(text: str) -> str:
    """A page whose command names files alone, and no folder of its own."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("**Command.**"):
            short = re.sub(r" '?folder=[^ '`]+'?", "", line)
            lines[number] = re.sub(r"=/(?:[^ '`/]+/)*", "=", short)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Publish the studies that are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", help="folders of studies")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for study in options.studies:
        print(publish(study, options.out))


if __name__ == "__main__":
    main()
