"""Writes docs/coverage.md: what is found in every architecture, and how long it takes."""

import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from oracle import masked
from rich.progress import track
from zoo.architectures import ARCHITECTURES, build

from amc_env import ChannelGraph

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
HEADER = """\
# Coverage

Made by `PYTHONPATH=tests uv run python -m zoo.coverage` with torch {torch}, \
torchvision {torchvision}, {machine}, one thread.

FLOPs are multiply-accumulates of convolutions and linear layers. *Groups* can be cut; *frozen* \
counts the conv and linear layers with outputs that cannot, the network's output layer among them. \
*FLOPs at half* is the share that is left when every group keeps half its channels. *Compact* is \
the median time of one compact copy with half the channels, and *copy* that of merely cloning the \
tensors that are left. *Result* compares the compact network with the original whose gone channels \
are silenced, on random weights: the largest difference relative to the largest logit, over three \
random cuts of which one leaves a single channel a group. Norms over channels (LayerNorm, \
GroupNorm) see fewer channels in a compact network, so there only shapes and finite outputs \
can be held. Inputs are small, as in `tests/zoo/architectures.py`.

| architecture | from | input | groups | frozen | FLOPs at half | analyse s | compact ms | copy ms \
| result |
| --- | --- | --- | --: | --: | --: | --: | --: | --: | --- |
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table and the reasons behind its frozen layers."""

    line: str
    reasons: Counter[str]


def measure(name: str) -> Row:
    """Analyse, cut, time and compare one architecture."""
    architecture = ARCHITECTURES[name]
    model, x = build(architecture)
    started = time.perf_counter()
    graph = ChannelGraph(model, x)
    seconds = time.perf_counter() - started
    half = {g.name: list(range(max(1, g.channels // 2))) for g in graph.groups}
    share = graph.cost({g: len(c) for g, c in half.items()}).flops / graph.cost().flops
    tensors = [*graph.compact(half).parameters()]
    compact_ms = median_ms(lambda: graph.compact(half))
    copy_ms = median_ms(lambda: [t.detach().clone() for t in tensors])
    size = "x".join(str(n) for n in x.shape[1:])
    cells = [name, architecture.source, size, len(graph.groups), len(graph.frozen)]
    cells += [f"{share:.3f}", f"{seconds:.2f}", f"{compact_ms:.1f}", f"{copy_ms:.1f}"]
    cells += [result(graph, x)]
    reasons = Counter(f.reason for f in graph.frozen)
    return Row(line=f"| {' | '.join(map(str, cells))} |", reasons=reasons)


def median_ms(work: Callable[[], object]) -> float:
    """Median milliseconds of nine calls."""
    times = []
    for _ in range(9):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


@torch.no_grad()
def result(graph: ChannelGraph, x: torch.Tensor) -> str:
    """How the compact network compares with the silenced one."""
    worst = 0.0
    for number, share in enumerate((0.7, 0.4, 0.0)):
        generator = torch.Generator().manual_seed(number)
        kept = {
            g.name: torch.randperm(g.channels, generator=generator)[
                : max(1, round(share * g.channels))
            ]
            for g in graph.groups
        }
        got, expected = (first(m(x)) for m in (graph.compact(kept), masked(graph, kept)))
        if got.shape != expected.shape or not got.isfinite().all():
            return "**WRONG SHAPE OR VALUES**"
        worst = max(worst, ((got - expected).abs().max() / expected.abs().max()).item())
    if any(group.has_channel_norm for group in graph.groups):
        return "shapes and finite outputs (norm over channels)"
    return f"equal, {worst:.0e}" if worst <= 1e-4 else f"**DIFFERS, {worst:.0e}**"


def first(out: object) -> torch.Tensor:
    """The only tensor, or the first of several."""
    return out if isinstance(out, torch.Tensor) else next(iter(out))


def reasons_section(rows: dict[str, Row]) -> str:
    """Why layers are frozen, for each architecture with more than its output layer."""
    lines = ["", "## What is frozen, beyond the output layers", ""]
    for name, row in rows.items():
        others = {r: n for r, n in row.reasons.items() if r != "they are the network's output"}
        if others:
            lines.append(f"- **{name}**")
            lines += [f"  - {n} x {' '.join(r.split())}" for r, n in others.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure all and write the page at once."""
    torch.set_num_threads(1)
    rows = {name: measure(name) for name in track(ARCHITECTURES, "architectures")}
    header = HEADER.format(
        torch=torch.__version__, torchvision=torchvision.__version__, machine=platform.machine()
    )
    text = header + "\n".join(row.line for row in rows.values()) + "\n" + reasons_section(rows)
    draft = PAGE.with_suffix(".tmp")
    draft.write_text(text)
    draft.replace(PAGE)


if __name__ == "__main__":
    main()
