"""Episodes per minute with one worker and with several, each on one thread."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.agents import SearchResult, make_agent
from amc_env.agents.workers import side_by_side
from amc_env.models import build_model
from benchmarks.speed.records import Case, Size

WORKERS = (1, 2)
IMAGES, ROUNDS = 1000, 3


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """So many workers of an engine, and an environment of their own."""

    workers: int
    engine: str
    env: ChannelPruningEnv

    @property
    def name(self) -> str:
        """The name of its line."""
        return f"ray {self.workers}" if self.engine == "ray" else f"{self.workers}"

    def search(self, episodes: int, *, seed: int) -> SearchResult:
        """A random search; the environment remembers no episode of another seed."""
        with side_by_side(self.env, workers=self.workers, engine=self.engine):
            return make_agent("random").search(self.env, episodes=episodes, seed=seed)


def workers(size: Size) -> Iterator[Case]:
    """A random search by one process, by workers, and by as many on a Ray cluster of this machine.

    They take turns, so that what else the machine does slows all alike; values are medians.

    Raises:
        RuntimeError: Two of the searches found different episodes.
    """
    (name,) = size.of(("cifar_resnet56",), ("digits_cnn",))
    crews = [_Crew(workers=count, engine=engine, env=_env(name)) for count, engine in _crews()]
    rounds = []
    for seed in range(1 if size.short else ROUNDS):
        results = [crew.search(8 if size.short else 20, seed=seed) for crew in crews]
        for crew, result in zip(crews, results, strict=True):
            if _found(result) != _found(results[0]):
                raise RuntimeError(f"{crew.name} found other episodes than {crews[0].name}")
        rounds.append(results)
    for crew, own in zip(crews, zip(*rounds, strict=True), strict=True):
        ratios = [
            _per_minute(mine) / _per_minute(all_[0]) for mine, all_ in zip(own, rounds, strict=True)
        ]
        values = {
            "seconds to start": median(map(_start_seconds, own)),
            "episodes a minute": median(map(_per_minute, own)),
            "times those of 1": median(ratios),
        }
        yield Case(name=crew.name, values=values)


def _start_seconds(result: SearchResult) -> float:
    """Seconds until every worker of the largest crew has had its first episode."""
    return result.episodes[max(WORKERS) - 1].at_seconds


def _per_minute(result: SearchResult) -> float:
    """Episodes per minute after the start."""
    seconds = result.episodes[-1].at_seconds - _start_seconds(result)
    return 60 * (len(result.episodes) - max(WORKERS)) / seconds


def _crews() -> Iterator[tuple[int, str]]:
    """Numbers of workers and their engines, in the order of the table."""
    has_ray = importlib.util.find_spec("ray") is not None
    for count in WORKERS:
        yield count, "processes"
        if has_ray and count > 1:
            yield count, "ray"


def _env(name: str) -> ChannelPruningEnv:
    return ChannelPruningEnv(
        model=build_model(name, seed=0).eval(),
        data=PruningData(calibration=_images(name, 300), validation=_images(name, IMAGES)),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=EnvSettings(precision="float32"),
    )


def _found(result: SearchResult) -> list[tuple[float, dict[str, int]]]:
    return [(e.reward, e.counts) for e in result.episodes]


def _images(name: str, count: int) -> Split:
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, *shape, generator=generator)
    return Split(inputs=inputs, labels=torch.arange(count) % 10)
