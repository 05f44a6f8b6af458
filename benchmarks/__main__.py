"""The benchmark: all rows, or those that are named; writes ``OUT.json`` and ``OUT.md``.

One thread unless ``--threads`` says otherwise. What is compared takes turns within the run, so its
ratios mean the same on a busy machine; seconds do not.
"""

import argparse
import time
from pathlib import Path

import torch

from amc_env.files import write_text
from benchmarks.speed.records import Case, Row, Size, Table, markdown, report
from benchmarks.speed.rows import ROWS, chosen


def measured(row: Row, size: Size) -> Table:
    """A row's table; says on the way how far it is."""
    started, cases = time.perf_counter(), list[Case]()
    print(f"{row.name} ...", flush=True)
    for case in row.measure(size):
        cases.append(case)
        values = ", ".join(f"{name} {value:.4g}" for name, value in case.values.items())
        print(f"  {case.name}: {values}", flush=True)
    print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    return Table(row=row.name, about=row.about, cases=cases)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write after every row."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks")
    names = ", ".join(row.name + (" (only if named)" if row.opt_in else "") for row in ROWS)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=names)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--short", action="store_true", help="small networks, as in CI")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        rows = chosen(options.rows)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    size = Size(short=options.short, rounds=options.rounds, device=options.device)
    tables: list[Table] = []
    for row in rows:
        tables.append(measured(row, size))
        found = report(tables, size)
        write_text(options.out.with_suffix(".json"), found.model_dump_json(indent=2) + "\n")
        write_text(options.out.with_suffix(".md"), markdown(found))


if __name__ == "__main__":
    main()
