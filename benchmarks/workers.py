"""Episodes per minute with one worker and with several, each on one thread.

``python -m benchmarks.workers`` searches at random in a ResNet-56 with 1,000 validation images,
once for every number of workers, and where Ray is installed once more with as many on a Ray cluster
of this machine. With one, the process of the search does everything, as ever. The rate is that of
the episodes after the start, which takes a worker some seconds and is shown beside it. All searches
have to find the same, which is checked. Weights and images are random, which changes no time. Let
nothing else run on the machine.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.agents import SearchResult, make_agent
from amc_env.agents.workers import side_by_side
from amc_env.models import build_model


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A search with so many workers of an engine."""

    workers: int
    engine: str
    result: SearchResult
    first: int

    @property
    def start_seconds(self) -> float:
        """Seconds until every worker has had its first episode."""
        return self.result.episodes[self.first - 1].at_seconds

    @property
    def per_minute(self) -> float:
        """Episodes per minute after the start."""
        episodes = self.result.episodes
        seconds = episodes[-1].at_seconds - self.start_seconds
        return 60 * (len(episodes) - self.first) / seconds


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    torch.set_num_threads(1)
    print("| workers | seconds to start | episodes per minute | of one worker |")
    print("| --- | --- | --- | --- |", flush=True)
    measured: list[Measured] = []
    for workers, engine in _crews(options.workers):
        measured.append(_measured(options, workers, engine))
        print(_row(measured[-1], measured[0]), flush=True)
    _check_same(measured)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="cifar_resnet56")
    parser.add_argument("--images", type=int, default=1000, help="validation images")
    parser.add_argument("--calibration", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    return parser.parse_args()


def _crews(numbers: list[int]) -> Iterator[tuple[int, str]]:
    """The numbers of workers and their engines, in the order of the table."""
    has_ray = importlib.util.find_spec("ray") is not None
    for workers in numbers:
        yield workers, "processes"
        if has_ray and workers > 1:
            yield workers, "ray"


def _measured(options: argparse.Namespace, workers: int, engine: str) -> Measured:
    env = ChannelPruningEnv(
        model=build_model(options.network, seed=0).eval(),
        data=PruningData(
            calibration=_images(options.calibration, seed=0),
            validation=_images(options.images, seed=1),
        ),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=EnvSettings(precision="float32"),
    )
    with side_by_side(env, workers=workers, engine=engine):
        result = make_agent("random").search(env, episodes=options.episodes, seed=0)
    return Measured(workers=workers, engine=engine, result=result, first=max(options.workers))


def _images(count: int, *, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, 32, 32, generator=generator)
    return Split(inputs=inputs, labels=torch.arange(count) % 10)


def _row(one: Measured, base: Measured) -> str:
    name = f"ray {one.workers}" if one.engine == "ray" else f"{one.workers}"
    return (
        f"| {name} | {one.start_seconds:.1f} | {one.per_minute:.1f} | "
        f"{one.per_minute / base.per_minute:.2f} |"
    )


def _check_same(measured: list[Measured]) -> None:
    found = [[(e.reward, e.counts) for e in one.result.episodes] for one in measured]
    if any(episodes != found[0] for episodes in found):
        raise SystemExit("the searches found different episodes")
    print(f"all searches found the same {len(found[0])} episodes")


if __name__ == "__main__":
    main()
