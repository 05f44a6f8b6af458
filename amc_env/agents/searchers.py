"""Searchers that a learner has to beat at equal cost.

Optuna and cmaes take seconds to import, so they are imported only where they are used.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.episodes import Recorder
from amc_env.agents.options import YES_OR_NO, check_values, whole
from amc_env.agents.searcher import Searcher
from amc_env.extras import need


@dataclass(frozen=True, kw_only=True)
class Uniform(Searcher):
    """One sparsity for all groups, the smallest that meets the budget; a single episode.

    Since only whole channels can be kept, some of the budget is left over. It is spent on one more
    step of channels for the groups from which rounding took most, so that the comparison with
    other agents is one at equal cost.
    """

    name: ClassVar[str] = "uniform"
    is_single: ClassVar[bool] = True

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        env = recorder.pruning
        recorder.play_counts(uniform_counts(env))


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Searcher):
    """Uniform random actions.

    Attributes:
        race: Whether an episode stops when its reward can no longer be the greatest. The search
            finds the same policy.
        batch: How many episodes race against the same greatest reward; they can be evaluated side
            by side. Without a race all of them can, and it makes no difference.
    """

    name: ClassVar[str] = "random"

    race: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        check_values("agent 'random'", vars(self), {"race": YES_OR_NO, "batch": whole(1)})

    @property
    @override
    def is_racing(self) -> bool:
        return self.race

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        groups = len(recorder.pruning.graph.groups)
        for size in batches(episodes, self.batch if self.race else episodes):
            best = recorder.best() if self.race else None
            asked = [generator.random(groups).tolist() for _ in range(size)]
            recorder.play_all(asked, floor=best.reward if best else None)


@dataclass(frozen=True, kw_only=True)
class CmaEs(Searcher):
    """Covariance matrix adaptation over the vector of all actions (Hansen, 2016).

    Attributes:
        sigma: Initial deviation. The initial mean is the policy to begin from, or the uniform
            sparsity where there is none.
    """

    name: ClassVar[str] = "cma_es"

    sigma: float = 0.2

    def __post_init__(self) -> None:
        need("agent 'cma_es'", "cmaes", extra="agents")
        if not 0.0 < self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; give a deviation above 0, such as 0.2")

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        from cmaes import CMA

        groups = recorder.pruning.graph.groups
        # The algorithm refuses a single dimension; beside a single group a second one is unused.
        size = max(2, len(groups))
        mean = np.full(size, uniform_sparsity(recorder.pruning))
        if recorder.start:
            mean[: len(groups)] = recorder.actions_for(recorder.start)
        optimizer = CMA(
            mean=mean,
            sigma=self.sigma,
            bounds=np.array([[0.0, 1.0]] * size),
            seed=seed,
        )
        for size in batches(episodes, optimizer.population_size):
            asked = [optimizer.ask() for _ in range(size)]
            played = recorder.play_all([actions[: len(groups)].tolist() for actions in asked])
            # The algorithm takes whole generations only; the last one may be cut short.
            if size == optimizer.population_size:
                told = zip(asked, played, strict=True)
                optimizer.tell([(actions, -episode.reward) for actions, episode in told])


@dataclass(frozen=True, kw_only=True)
class Tpe(Searcher):
    """Tree-structured Parzen estimator over the actions (Bergstra et al., 2011), by Optuna.

    Where there is a policy to begin from, the first episode plays it.

    Attributes:
        batch: How many episodes are asked for before the estimator is told their rewards; they can
            be evaluated side by side. From 2 on, it takes the rewards that it is still to be told
            for the worst ones, so that the episodes of a batch differ ("constant liar").
    """

    name: ClassVar[str] = "tpe"

    batch: int = 1

    def __post_init__(self) -> None:
        check_values("agent 'tpe'", vars(self), {"batch": whole(1)})
        need("agent 'tpe'", "optuna", extra="agents")

    @override
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        import optuna

        names = [group.name for group in recorder.pruning.graph.groups]
        # By default Optuna logs a line for every episode.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # Its interface may change; nothing but its presence is relied on.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=self.batch > 1)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        if recorder.start:
            study.enqueue_trial(dict(zip(names, recorder.actions_for(recorder.start), strict=True)))
        for size in batches(episodes, self.batch):
            trials, asked = [], []
            for _ in range(size):
                trials.append(study.ask())
                asked.append([trials[-1].suggest_float(name, 0.0, 1.0) for name in names])
            for trial, episode in zip(trials, recorder.play_all(asked), strict=True):
                study.tell(trial, episode.reward)


def batches(total: int, size: int) -> Iterator[int]:
    """The sizes of batches that make up a total; the last may be smaller."""
    for done in range(0, total, size):
        yield min(size, total - done)


def uniform_sparsity(env: ChannelPruningEnv) -> float:
    """The smallest sparsity that, used for all groups alike, meets the environment's budget."""
    return env.keeper.fitting_sparsity({})


def uniform_counts(env: ChannelPruningEnv) -> dict[str, int]:
    """Channels that each group keeps at the uniform sparsity, with the rest of the budget spent."""
    return env.keeper.scaled({})
