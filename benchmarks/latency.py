"""Predicted against measured latency of random policies.

For each network a table is measured first, as ``python -m amc_env measure`` does; a table that lies
in OUT is used again. Then random policies are drawn: every group keeps a random number of its
channels. Each pruned network takes turns with the original one, so that what else the machine does
slows both alike. OUT gets ``latency.md``, with all policies and how many predictions lie within a
tenth of the measured median: of the milliseconds, and of the ratio to the original's, which is what
a budget limits.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amc_env.files import write_text
from amc_env.latency import Conditions, LatencyTable
from amc_env.latency.clock import Timing, threads_of_torch, timings
from amc_env.latency.measuring import MeasureSettings, measure
from amc_env.latency.runtimes import runner
from amc_env.models import NamedModel, find_model
from amc_env.structure import ChannelGraph

NETWORKS = ("cifar_resnet56", "cifar_vgg16", "mobilenet_v2")
NEAR = 0.1


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A random policy: predicted and measured latency, and those of the original beside it."""

    flops_ratio: float
    predicted_ms: float
    predicted_original_ms: float
    measured: Timing
    original: Timing

    @property
    def error(self) -> float:
        """The relative error of the milliseconds."""
        return self.predicted_ms / self.measured.median_ms - 1.0

    @property
    def ratio(self) -> float:
        """The measured latency as a ratio of the original's."""
        return self.measured.median_ms / self.original.median_ms

    @property
    def predicted_ratio(self) -> float:
        """The predicted latency as a ratio of the original's."""
        return self.predicted_ms / self.predicted_original_ms

    @property
    def ratio_error(self) -> float:
        """The relative error of the ratio."""
        return self.predicted_ratio / self.ratio - 1.0


def main() -> None:
    """Measure, predict, and write the tables."""
    options = _options()
    parts = []
    for name in options.networks:
        table, network = _table(options, name)
        with threads_of_torch(options.threads):
            policies = list(_policies(options, table, network))
        parts.append(_markdown(table, policies))
        print(parts[-1], flush=True)
        write_text(options.out / "latency.md", "\n\n".join(parts) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--clock", default="wall")
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each policy")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _table(options: argparse.Namespace, name: str) -> tuple[LatencyTable, NamedModel]:
    """The table of a network, measured unless it is there."""
    network = find_model(name)
    path = options.out / f"{name}_{options.runtime}_{options.batch}.json"
    conditions = Conditions.here(
        device=options.device,
        runtime=options.runtime,
        threads=options.threads,
        batch=options.batch,
        clock=options.clock,
    )
    settings = MeasureSettings(levels=options.levels)
    return measure(network, path, conditions=conditions, settings=settings), network


def _policies(
    options: argparse.Namespace, table: LatencyTable, network: NamedModel
) -> Iterator[Policy]:
    rng = np.random.default_rng(options.seed)
    batch = torch.randn(options.batch, *table.input_shape).to(options.device)
    graph = ChannelGraph(network.model, torch.zeros(2, *table.input_shape))
    whole = graph.cost()
    for _ in range(options.policies):
        counts = {g.name: int(rng.choice(_from_a_fifth(g.counts))) for g in graph.groups}
        kept = {name: range(count) for name, count in counts.items()}
        networks = [graph.compact(each).to(options.device).eval() for each in (kept, {})]
        runs = [
            runner(each, [batch], runtime=options.runtime, threads=options.threads)
            for each in networks
        ]
        measured, original = timings(
            runs, seconds=options.seconds, device=batch.device, clock=options.clock, at_least=9
        )
        cost = graph.cost(counts)
        yield Policy(
            flops_ratio=cost.flops / whole.flops,
            predicted_ms=table.milliseconds(cost),
            predicted_original_ms=table.milliseconds(whole),
            measured=measured,
            original=original,
        )


def _from_a_fifth(counts: tuple[int, ...]) -> list[int]:
    """The numbers that the default bounds of the environment allow."""
    return [count for count in counts if count >= 0.2 * counts[-1]]


def _markdown(table: LatencyTable, policies: list[Policy]) -> str:
    mine = table.conditions
    versions = ", ".join(f"{name} {version}" for name, version in mine.versions.items())
    header = (
        "MACs left", "predicted ms", "median ms", "half range", "error", "predicted ratio", "ratio",
        "error",
    )  # fmt: skip
    where = (
        f"{mine.device_name}, {mine.runtime}, {mine.threads} thread(s), batch {mine.batch}, clock "
        f"{mine.clock}, {versions}"
    )
    found = (
        f"Within {NEAR:.0%}: {_near([p.error for p in policies])} in milliseconds, "
        f"{_near([p.ratio_error for p in policies])} as ratios."
    )
    rows = [f"| {' | '.join(row)} |" for row in (header, ["--:"] * len(header))]
    lines = [f"## {table.model}", "", where, "", *rows, *map(_line, policies), "", found]
    return "\n".join(lines)


def _line(policy: Policy) -> str:
    cells = (
        f"{policy.flops_ratio:.3f}",
        f"{policy.predicted_ms:.3f}",
        f"{policy.measured.median_ms:.3f}",
        f"{policy.measured.iqr_ms / 2:.3f}",
        f"{policy.error:+.1%}",
        f"{policy.predicted_ratio:.3f}",
        f"{policy.ratio:.3f}",
        f"{policy.ratio_error:+.1%}",
    )
    return f"| {' | '.join(cells)} |"


def _near(errors: list[float]) -> str:
    return f"{sum(abs(error) <= NEAR for error in errors)} of {len(errors)}"


if __name__ == "__main__":
    main()
