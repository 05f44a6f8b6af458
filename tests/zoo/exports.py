"""Writes docs/results/exports.md: what the exports of every architecture compute elsewhere.

Each architecture is worked on in a process of its own, which may take minutes. Its row is kept in
``exports.csv`` as soon as it is known, and the command goes on with the architectures that have no
row yet. Those that are given by name are done again.
"""

import csv
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from exported import computed_elsewhere, difference, leave_run
from torch import Tensor
from zoo.architectures import ARCHITECTURES, build

from amc_env.export.finished import Finished
from amc_env.export.programs import write_onnx, write_program
from amc_env.export.weights import write_weights
from amc_env.files import write_text
from amc_env.policy import checked_policy, with_weights

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "exports.md"
ROWS = PAGE.with_suffix(".csv")
TOLERANCE = 1e-4
# Seconds for one architecture, which a busy machine may make long.
LIMIT = 3600
# In the order in which they are written: the weights need the program.
FORMATS = {
    "program": (write_program, "network.pt2"),
    "weights": (write_weights, "load.py"),
    "onnx": (write_onnx, "network.onnx"),
}
HEADER = """\
# Exports of every architecture

Made by `PYTHONPATH=tests uv run python -m zoo.exports` with torch {torch}, one thread, from \
[`exports.csv`](exports.csv). It goes on where it was stopped.

Every group keeps half of its channels, on random weights. The network is left as a run leaves it, \
written in every format, and read in a fresh process that cannot import this package. *Program* is \
`network.pt2`, *weights* is `load.py` with `pruned.safetensors`, *ONNX* is `network.onnx` in \
onnxruntime. Each cell is the largest difference of an output for a batch of three (the exports \
are made with two), relative to the largest output; {tolerance:.0e} is allowed. *Seconds* are \
those of all formats together. Inputs are small, as in `tests/zoo/architectures.py`.

{passed} of {all} architectures give the same in all three formats.

| architecture | from | input | program | weights | ONNX | seconds |
| --- | --- | --- | --: | --: | --: | --: |
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the exports of one architecture compute: a difference, or why there is none."""

    name: str
    program: str
    weights: str
    onnx: str
    seconds: str

    @property
    def cells(self) -> list[str]:
        """Its cells in the page."""
        architecture = ARCHITECTURES[self.name]
        size = f"{architecture.channels}x{architecture.size}x{architecture.size}"
        formats = [self.program, self.weights, self.onnx]
        found = [text if _is_equal(text) else "fails" for text in formats]
        return [self.name, architecture.source, size, *found, self.seconds]

    @property
    def complaints(self) -> dict[str, str]:
        """The formats that fail, with the reason."""
        given = {name: getattr(self, name) for name in FORMATS}
        return {name: text for name, text in given.items() if not _is_equal(text)}


def leave_exports(name: str, folder: Path) -> tuple[Tensor, dict[str, str]]:
    """Write a pruned network in all formats; its class scores for ``x.pt``, and what fails."""
    model, x = build(ARCHITECTURES[name])
    leave_run(folder, model, x)
    policy = checked_policy(folder)
    graph = policy.graph(model)
    network = with_weights(graph.compact(policy.kept), folder)
    run = Finished(folder=folder, policy=policy, graph=graph, network=network)
    failed = {}
    for format_, (write, _) in FORMATS.items():
        try:
            write(run, folder)
        except ValueError as error:
            failed[format_] = str(error)
    samples = torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.save(samples, folder / "x.pt")
    with torch.no_grad():
        out = network(samples)
    return out if isinstance(out, Tensor) else next(iter(out)), failed


def work(name: str) -> Row:
    """The row of an architecture."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as given:
        wanted, failed = leave_exports(name, Path(given))
        seconds = time.perf_counter() - started
        (found,) = computed_elsewhere([Path(given)])
    cells = dict.fromkeys(FORMATS, "the program is missing") | failed
    for format_, (_, file) in FORMATS.items():
        # The script is written where there is no program for it, too.
        if file in found and format_ not in failed:
            cells[format_] = f"{difference(found[file], wanted):.0e}"
    return Row(name=name, **cells, seconds=f"{seconds:.0f}")


def in_own_process(name: str) -> Row:
    """As ``work``; a process that fails or takes too long costs no other row."""
    command = [sys.executable, "-m", "zoo.exports", "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return _unknown(name, f"it takes more than {LIMIT} seconds")
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return _unknown(name, why)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def read_rows(path: Path = ROWS) -> dict[str, Row]:
    """The rows that there are, by architecture."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: Row(**row) for row in csv.DictReader(file)}


def page(rows: Mapping[str, Row], *, version: str) -> str:
    """The page of these rows."""
    ordered = [rows[name] for name in ARCHITECTURES if name in rows]
    header = HEADER.format(
        torch=version,
        tolerance=TOLERANCE,
        passed=sum(not row.complaints for row in ordered),
        all=len(ARCHITECTURES),
    )
    lines = [f"| {' | '.join(row.cells)} |" for row in ordered]
    missing = [name for name in ARCHITECTURES if name not in rows]
    if missing:
        lines += ["", f"Not done yet: {', '.join(missing)}."]
    return header + "\n".join([*lines, *_reasons(ordered)]) + "\n"


def _reasons(rows: Sequence[Row]) -> list[str]:
    failed = [(row.name, row.complaints) for row in rows if row.complaints]
    if not failed:
        return []
    lines = ["", "## What fails, and why", ""]
    for name, complaints in failed:
        lines += [f"- **{name}**, {format_}: {why}" for format_, why in complaints.items()]
    return lines


def _is_equal(text: str) -> bool:
    try:
        return float(text) <= TOLERANCE
    except ValueError:
        return False


def _unknown(name: str, why: str) -> Row:
    return Row(name=name, **dict.fromkeys(FORMATS, why), seconds="")


def _write(rows: Mapping[str, Row]) -> None:
    names = [field.name for field in fields(Row)]
    lines = [names, *([str(x) for x in asdict(row).values()] for row in rows.values())]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(ROWS, text.getvalue())
    write_text(PAGE, page(rows, version=torch.__version__))


def main(arguments: Sequence[str]) -> None:
    """Work on the architectures that have no row yet, or on those that are given."""
    torch.set_num_threads(1)
    if arguments[:1] == ["--row"]:
        sys.stdout.write(json.dumps(asdict(work(arguments[1]))) + "\n")
        return
    if unknown := set(arguments) - set(ARCHITECTURES):
        known = ", ".join(ARCHITECTURES)
        sys.exit(f"no architecture is called {', '.join(sorted(unknown))}; known: {known}")
    rows = read_rows()
    for name in arguments or [name for name in ARCHITECTURES if name not in rows]:
        rows[name] = in_own_process(name)
        _write(rows)
        sys.stdout.write(f"{' '.join(rows[name].cells)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
