"""Episodes per minute with one worker and with several, each on one thread."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.agents import SearchResult, make_agent
from amc_env.agents.workers import side_by_side
from amc_env.models import build_model
from benchmarks.speed.records import Case, Size

WORKERS = (1, 2)
IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A search with so many workers of an engine."""

    workers: int
    engine: str
    result: SearchResult

    @property
    def name(self) -> str:
        """The name of its line."""
        return f"ray {self.workers}" if self.engine == "ray" else f"{self.workers}"

    @property
    def start_seconds(self) -> float:
        """Seconds until every worker of the largest crew has had its first episode."""
        return self.result.episodes[max(WORKERS) - 1].at_seconds

    @property
    def per_minute(self) -> float:
        """Episodes per minute after the start."""
        episodes = self.result.episodes
        seconds = episodes[-1].at_seconds - self.start_seconds
        return 60 * (len(episodes) - max(WORKERS)) / seconds


def workers(size: Size) -> Iterator[Case]:
    """A random search by one process, by workers, and by as many on a Ray cluster of this machine.

    Raises:
        RuntimeError: Two of the searches found different episodes.
    """
    (name,) = size.of(("cifar_resnet56",), ("digits_cnn",))
    measured: list[_Measured] = []
    for count, engine in _crews():
        one = _search(name, size, count, engine)
        measured.append(one)
        if _found(one) != _found(measured[0]):
            raise RuntimeError(f"{one.name} found other episodes than {measured[0].name}")
        values = {"seconds to start": one.start_seconds, "episodes a minute": one.per_minute}
        values["times those of 1"] = one.per_minute / measured[0].per_minute
        yield Case(name=one.name, values=values)


def _crews() -> Iterator[tuple[int, str]]:
    """Numbers of workers and their engines, in the order of the table."""
    has_ray = importlib.util.find_spec("ray") is not None
    for count in WORKERS:
        yield count, "processes"
        if has_ray and count > 1:
            yield count, "ray"


def _search(name: str, size: Size, count: int, engine: str) -> _Measured:
    env = ChannelPruningEnv(
        model=build_model(name, seed=0).eval(),
        data=PruningData(calibration=_images(name, 300), validation=_images(name, IMAGES)),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=EnvSettings(precision="float32"),
    )
    with side_by_side(env, workers=count, engine=engine):
        result = make_agent("random").search(env, episodes=8 if size.short else 60, seed=0)
    return _Measured(workers=count, engine=engine, result=result)


def _found(measured: _Measured) -> list[tuple[float, dict[str, int]]]:
    return [(e.reward, e.counts) for e in measured.result.episodes]


def _images(name: str, count: int) -> Split:
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, *shape, generator=generator)
    return Split(inputs=inputs, labels=torch.arange(count) % 10)
