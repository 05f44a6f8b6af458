"""What a row of the benchmark measures, and the page that is made of it."""

import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict

PACKAGES = ("torch", "numpy", "sklearn", "torch_pruning", "skimage", "stable_baselines3")

_METHOD = (
    "Random weights and images. Seconds are medians of rounds in which all ways take turns; they "
    "vary with what else the machine does, and the ratios, which are of one run each, much less."
)


@dataclass(frozen=True)
class Prepared:
    """Makes what is timed anew for every round, where it changes what it works on."""

    make: Callable[[], Callable[[], object]]


Way = Callable[[], object] | Prepared


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Record):
    """One line of a row's table: numbers by the heading of their column, which names the unit."""

    name: str
    values: dict[str, float]


class Table(_Record):
    """What a row has measured."""

    row: str
    about: str
    cases: list[Case]


class Report(_Record):
    """All rows of one run, and where it ran."""

    machine: str
    threads: int
    device: str
    short: bool
    versions: dict[str, str]
    tables: list[Table]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        short: Whether a row takes the smallest networks that show its ratios, as in CI.
        rounds: How often what is compared takes turns.
        device: Where networks lie; what torch-pruning, scikit-learn and scikit-image do is on the
            CPU.
    """

    short: bool = False
    rounds: int = 5
    device: str = "cpu"

    def of(self, full: tuple[str, ...], short: tuple[str, ...]) -> tuple[str, ...]:
        """The names to measure."""
        return short if self.short else full


@dataclass(frozen=True, kw_only=True)
class Row:
    """A part of the benchmark that can be chosen by its name.

    Attributes:
        about: What is measured, for the page.
        measure: Yields the lines of the table.
        opt_in: Whether it runs only where it is named.
    """

    name: str
    about: str
    measure: Callable[[Size], Iterator[Case]]
    opt_in: bool = False


def medians(ways: Mapping[str, Way], size: Size) -> dict[str, float]:
    """Seconds of the processor that each way takes, as medians of rounds in which they take turns.

    On a GPU, where the processor only waits, seconds of the wall clock. A first round is not
    counted: it loads and compiles what the later ones find ready.
    """
    rounds = [
        {name: _taken(way, size) for name, way in ways.items()} for _ in range(size.rounds + 1)
    ]
    return {name: statistics.median(each[name] for each in rounds[1:]) for name in ways}


def _taken(way: Way, size: Size) -> float:
    function = way.make() if isinstance(way, Prepared) else way
    on_gpu = size.device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    function()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def report(tables: list[Table], size: Size) -> Report:
    """The record of a run."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = str(getattr(importlib.import_module(package), "__version__", "?"))
    device = torch.cuda.get_device_name() if size.device.startswith("cuda") else size.device
    return Report(
        machine=f"{platform.machine()}, {os.cpu_count()} processors, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        threads=torch.get_num_threads(),
        device=device,
        short=size.short,
        versions=versions,
        tables=tables,
    )


def markdown(found: Report) -> str:
    """The page of a run."""
    packages = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    threads = "one thread" if found.threads == 1 else f"{found.threads} threads"
    lines = [
        "# Speed",
        "",
        f"{found.machine}; networks on {found.device}, {threads}; {packages}. {_METHOD}",
    ]
    if found.short:
        lines += ["", "A short run, on small networks."]
    for table in found.tables:
        lines += ["", f"## {table.row}", "", table.about, "", *_grid(table)]
    return "\n".join(lines) + "\n"


def _grid(table: Table) -> Iterator[str]:
    columns = list(dict.fromkeys(name for case in table.cases for name in case.values))
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --: |" * len(columns)
    for case in table.cases:
        cells = [_shown(case.values.get(column)) for column in columns]
        yield f"| {case.name} | " + " | ".join(cells) + " |"


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
