"""Runs every repair on every allocation and keeps which test images each network gets right."""

import copy
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, Policy, PruningData, RepairSettings
from amc_env.agents.error_curves import allocate
from amc_env.agents.searchers import uniform_counts
from amc_env.batches import first_tensor
from amc_env.evaluation import Evaluator
from benchmarks.rivals.methods import METHODS, Method, Task, with_norms_
from benchmarks.rivals.outside import SCORES, globally_pruned, widths_of
from benchmarks.subjects import Subject, is_right

UNIFORM = "uniform"
# Rewards are not looked at here, so the split that they are paid on may be small.
_VALIDATION = 50

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        methods: The repairs.
        seeds: Of the draws of calibration images.
        calibration: How many images each draw has.
        budget: Ratio of the multiply-accumulates that is left.
        criterion: Ranks the channels.
        policy: A file with the numbers of channels of the second allocation; those of
            ``error_curves`` if None.
    """

    methods: Mapping[str, Method]
    seeds: tuple[int, ...] = (0, 1, 2)
    calibration: int = 500
    budget: float = 0.5
    criterion: str = "l2"
    policy: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One pruned network on the test images.

    Attributes:
        allocation: How the budget was divided.
        method: Label of the repair.
        seed: Of the draw of calibration images.
        macs_ratio: Multiply-accumulates that are left.
        seconds: Of the processor, for the repair and all that it needs.
        is_right: For each test image whether the network classifies it right.
    """

    allocation: str
    method: str
    seed: int
    macs_ratio: float
    seconds: float
    is_right: Tensor


def compare(subject: Subject, settings: Settings) -> Iterator[Run]:
    """Every repair on both allocations, and torch-pruning's networks, for every draw of images."""
    comparison = _Comparison(subject, settings)
    for seed in settings.seeds:
        yield from comparison.draw(seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Line:
    """A network to make.

    Attributes:
        allocation: How the budget was divided.
        method: The repair.
        make: Makes the network.
        before: Seconds that were spent before on what ``make`` uses.
        key: What the network follows from, if no calibration image is among it.
    """

    allocation: str
    method: Method
    make: Callable[[], nn.Module]
    before: float = 0.0
    key: Hashable = None


class _Comparison:
    """Makes the networks and tests them; one that reads no calibration image is made once."""

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self._subject = subject
        self._settings = settings
        self._evaluator = Evaluator(subject.test, precision="float32")
        self._known: dict[Hashable, Run] = {}
        self._outside: dict[str, tuple[nn.Module, float]] = {}

    def draw(self, seed: int) -> Iterator[Run]:
        """All runs on one draw of calibration images."""
        env, preparing = _timed(partial(self._environment, seed))
        for line in chain(self._repaired(env, preparing), self._pruned_outside(env)):
            run = self._known.get(line.key) or self._run(env, line)
            if line.key is not None:
                self._known[line.key] = run
            yield replace(run, seed=seed)

    def _environment(self, seed: int) -> ChannelPruningEnv:
        drawn = PruningData.of_training(
            self._subject.train,
            test=self._subject.test,
            calibration=self._settings.calibration,
            validation=_VALIDATION,
            seed=seed,
        )
        return ChannelPruningEnv(
            model=self._subject.model,
            data=drawn,
            criterion=self._settings.criterion,
            budget=Budget(flops=self._settings.budget),
            settings=EnvSettings(
                ignore=self._subject.ignore, repair=RepairSettings(repair="plain")
            ),
        )

    def _repaired(self, env: ChannelPruningEnv, preparing: float) -> Iterator[_Line]:
        """Every repair on both allocations."""
        images = _images(env)
        for allocation, counts in self._allocations(env).items():
            task = Task(pruner=env.pruner, counts=counts, images=images)
            for name, method in self._settings.methods.items():
                yield _Line(
                    allocation=allocation,
                    method=method,
                    make=partial(method.repair, task),
                    before=preparing if method.is_planned else 0.0,
                    key=None if method.reads_data else (allocation, name, *sorted(counts.items())),
                )

    def _allocations(self, env: ChannelPruningEnv) -> dict[str, Mapping[str, int]]:
        """The numbers of channels that each group keeps, by the name of the allocation."""
        path = self._settings.policy
        second = Policy.load(path).counts if path else allocate(env)
        return {UNIFORM: uniform_counts(env), path.name if path else "error_curves": second}

    def _pruned_outside(self, env: ChannelPruningEnv) -> Iterator[_Line]:
        """torch-pruning's networks as they are, and with norms estimated again."""
        for name, score in SCORES.items():
            if name not in self._outside:
                prune = partial(globally_pruned, env.graph, score=score)
                self._outside[name] = _timed(partial(prune, macs_ratio=self._settings.budget))
            model, before = self._outside[name]
            line = partial(_Line, allocation=name, before=before)
            yield line(method=METHODS["none"], make=partial(copy.deepcopy, model), key=name)
            adapted = partial(_adapted, model, _images(env))
            yield line(method=METHODS["norms"], make=adapted)

    def _run(self, env: ChannelPruningEnv, line: _Line) -> Run:
        model, seconds = _timed(line.make)
        cost = env.graph.cost(widths_of(env.graph, model))
        return Run(
            allocation=line.allocation,
            method=line.method.label,
            seed=0,
            macs_ratio=cost.flops / env.graph.cost().flops,
            seconds=line.before + seconds,
            is_right=is_right(self._evaluator, model),
        )


def _images(env: ChannelPruningEnv) -> Tensor:
    """All calibration images."""
    split = env.data.calibration
    return first_tensor(split.first(len(split)))


def _adapted(model: nn.Module, images: Tensor) -> nn.Module:
    return with_norms_(copy.deepcopy(model), images)


def _timed(function: Callable[[], _T]) -> tuple[_T, float]:
    """What a function returns, and its seconds of the processor, which others do not stretch."""
    started = time.process_time()
    result = function()
    return result, time.process_time() - started
