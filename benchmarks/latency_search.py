"""A search by latency against one by FLOPs, on a published ResNet or, without a folder, on digits.

TABLE is a file of ``python -m amc_env measure``. One search may keep half of the MACs, or
``--flops``; the others the given ratios of the predicted latency. All networks are repaired and
then timed in turns. The searches by latency that reach the accuracy of the search by FLOPs, on the
selection images, are compared with it by the measured medians. Test images are not read.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amc_env import Budget, ChannelPruningEnv
from amc_env.agents import make_agent
from amc_env.latency import LatencyTable
from amc_env.latency.clock import Timing, threads_of_torch, timings
from amc_env.latency.runtimes import runner
from benchmarks.searches.search import environment
from benchmarks.subjects import published, trained_digits


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a search leaves: its network, and what it is worth."""

    budget: str
    network: nn.Module
    accuracy: float
    flops_ratio: float
    predicted_ms: float


def main() -> None:
    """Search at every budget, and print a table."""
    options = _options()
    table = LatencyTable.load(options.table, anywhere=options.anywhere)
    subject = (
        published(options.folder, options.model, data=options.data)
        if options.folder
        else trained_digits()
    )
    images = {"calibration": options.calibration, "validation": options.validation}
    env = environment(
        subject,
        flops=options.flops,
        reward="loss",
        images={**images, "selection": options.validation},
        seed=options.seed,
    )
    # All are made first, so that a budget out of reach is refused before anything is searched.
    envs = {f"flops={options.flops}": env} | {
        f"latency={ratio}": env.with_budget(Budget(latency=ratio, table=table))
        for ratio in options.latencies
    }
    found = [_search(each, options, table, budget) for budget, each in envs.items()]
    times = _timed(table, [env.graph.model, *(each.network for each in found)], options.seconds)
    print(_markdown(found, times[1:], times[0]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--anywhere", action="store_true", help="the table holds here too")
    parser.add_argument("--folder", type=Path, help="holds models/ and, without --data, data/")
    parser.add_argument("--data", type=Path, help="an .npz of all images")
    parser.add_argument("--model", default="cifar_resnet56")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.8, 0.7, 0.6, 0.5])
    parser.add_argument("--agent", default="error_curves")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--finalists", type=int, default=5)
    parser.add_argument("--calibration", type=int, default=300)
    parser.add_argument("--validation", type=int, default=1000, help="images, and for selection")
    parser.add_argument("--seconds", type=float, default=20.0, help="for timing all networks")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _search(
    env: ChannelPruningEnv, options: argparse.Namespace, table: LatencyTable, budget: str
) -> Found:
    agent = make_agent(options.agent)
    result = agent.search(env, episodes=options.episodes, seed=options.seed)
    realised = result.realised(env, finalists=options.finalists)
    outcome = env.judge(realised.compact, realised.best.counts)
    print(f"{budget}: {outcome.accuracy:.2%}", flush=True)
    return Found(
        budget=budget,
        network=realised.compact,
        accuracy=outcome.accuracy,
        flops_ratio=realised.best.flops_ratio,
        predicted_ms=table.milliseconds(env.graph.cost(realised.best.counts)),
    )


def _timed(table: LatencyTable, networks: list[nn.Module], seconds: float) -> list[Timing]:
    """The networks in turns, under the conditions of the table."""
    mine = table.conditions
    batch = torch.randn(mine.batch, *table.input_shape).to(mine.device)
    with threads_of_torch(mine.threads):
        runs = [runner(n, [batch], runtime=mine.runtime, threads=mine.threads) for n in networks]
        return timings(runs, seconds=seconds, device=batch.device, clock=mine.clock)


def _markdown(found: list[Found], times: list[Timing], original: Timing) -> str:
    lines = [
        "| budget | accuracy | MACs left | predicted ms | median ms | ratio |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for each, time in zip(found, times, strict=True):
        ratio = time.median_ms / original.median_ms
        lines.append(
            f"| {each.budget} | {each.accuracy:.2%} | {each.flops_ratio:.3f} "
            f"| {each.predicted_ms:.3f} | {time.median_ms:.3f} | {ratio:.3f} |"
        )
    by_flops, *_ = times
    equal = [t for f, t in zip(found, times, strict=True) if f.accuracy >= found[0].accuracy]
    gain = 1.0 - min(time.median_ms for time in equal) / by_flops.median_ms
    lines += ["", f"At no less accuracy, the fastest network needs {gain:.1%} less than by FLOPs."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
