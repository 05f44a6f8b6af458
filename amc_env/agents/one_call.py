"""The whole way for one's own network in one call."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from torch import nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData
from amc_env.agents.episodes import Listener, SearchResult
from amc_env.agents.progress import following
from amc_env.agents.progress import progress as shown_progress
from amc_env.agents.searcher import Searcher
from amc_env.agents.table import make_agent
from amc_env.agents.workers import side_by_side
from amc_env.criteria import Criterion
from amc_env.data import Samples
from amc_env.data.splits import as_source
from amc_env.metric import Metric
from amc_env.rewards import Reward
from amc_env.tasks import Task


def search(  # noqa: PLR0913 (one call that needs no other; all but the first four have defaults)
    model: nn.Module,
    *,
    calibration: Samples,
    validation: Samples,
    budget: Budget | float | None,
    selection: Samples | None = None,
    test: Samples | None = None,
    agent: str | Searcher = "ddpg",
    reward: str | Reward | Mapping[str, float] = "accuracy",
    criterion: str | Criterion = "l2",
    task: str | Task = "classification",
    settings: EnvSettings | None = None,
    episodes: int = 200,
    finalists: int = 5,
    seed: int = 0,
    workers: int = 1,
    engine: str = "processes",
    on_episode: Listener | None = None,
    log: Path | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search for the best policy of a trained network and make its compact network.

    The compact network is repaired layer by layer on the inputs that it really computes, unless
    ``settings`` repair nothing; fine-tune it to recover more of the accuracy.

    Args:
        model: A trained network. It is not modified.
        calibration: Some hundred training samples: tensors, or a loader. Only some criteria read
            their labels, so they may have none.
        validation: Other training samples with labels, on which rewards are computed.
        budget: Ratio of the multiply-accumulates that may be left, a ``Budget``, or None.
        selection: Yet other training samples with labels, on which the best policies are compared;
            if None, on the validation samples.
        test: Samples of a final report, if any. They are only compared with the other samples, and
            a sample that is in both is refused.
        agent: The searcher, by name or as an object.
        reward: The reward of a network: a name, weights by name, or a function.
        criterion: The criterion that ranks channels, by name or as an object.
        task: What the network is trained for, by name or as an object.
        settings: Bounds of the channels, repair and evaluation.
        episodes: The greatest number of networks that are tried.
        finalists: How many of the best policies are repaired layer by layer, of which the best is
            returned.
        seed: Seed of the agent.
        workers: How many processes evaluate candidates side by side, where the agent asks for
            several at once. With 1, all is done in this process.
        engine: Where these processes run: ``processes`` on this machine, ``ray`` on a Ray cluster.
        on_episode: Called with every episode as soon as it is finished.
        log: Folder in which a learner writes its learning curves; they are not written if None.
        progress: Whether to show how far the search is.

    Raises:
        ValueError: An argument is wrong, or arguments do not fit together.
        SearchFailedError: An error ended the search after its first episode; the finished episodes
            are in its ``result``.
    """
    if finalists < 1:
        raise ValueError(f"finalists is {finalists}; give at least 1")
    data = PruningData(
        calibration=as_source(calibration),
        validation=as_source(validation),
        selection=as_source(selection) if selection is not None else None,
        test=as_source(test) if test is not None else None,
    )
    env = ChannelPruningEnv(
        model=model,
        data=data,
        criterion=criterion,
        reward=reward,
        task=task,
        budget=Budget(flops=budget) if isinstance(budget, (int, float)) else budget,
        settings=settings,
    )
    searcher = make_agent(agent)
    shown = _shown(
        on_episode,
        total=1 if searcher.is_single else episodes,
        metric=env.task.metric,
        is_on=progress,
    )
    with side_by_side(env, workers=workers, engine=engine), shown as listener:
        result = searcher.search(env, episodes=episodes, seed=seed, on_episode=listener, log=log)
    return result.realised(env, finalists=finalists)


@contextmanager
def _shown(
    listener: Listener | None, *, total: int, metric: Metric, is_on: bool
) -> Iterator[Listener | None]:
    """The listener, which also shows the progress of the search where it is on."""
    if not is_on:
        yield listener
        return
    with shown_progress(Console(), "searching", total=total) as advance:
        yield following(advance, listener, metric=metric)
