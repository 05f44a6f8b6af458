"""The whole way for one's own network in one call."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from agents.episodes import Listener, SearchResult
from agents.searcher import Searcher
from agents.table import make_agent
from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.criteria import Criterion
from amc_env.data import Samples
from amc_env.rewards import Reward


def search(  # noqa: PLR0913 (one call that needs no other; all but the first four have defaults)
    model: nn.Module,
    *,
    calibration: Samples,
    validation: Samples,
    budget: Budget | float | None,
    test: Samples | None = None,
    agent: str | Searcher = "ddpg",
    reward: str | Reward | Mapping[str, float] = "accuracy",
    criterion: str | Criterion = "l2",
    settings: EnvSettings | None = None,
    episodes: int = 200,
    seed: int = 0,
    on_episode: Listener | None = None,
) -> SearchResult:
    """Look for the best policy of a trained network and make its compact network.

    The compact network is repaired layer by layer on what it really computes; fine-tune it to
    recover the rest.

    Args:
        model: A trained network that gives class scores. It is not modified.
        calibration: Some hundred training samples with labels: tensors, or a loader.
        validation: The mini split that rewards are paid on, of training data too.
        budget: Ratio of the multiply-accumulates that may be left, a ``Budget``, or None.
        test: Samples of a final report, if any, only to refuse those that choices would leak from.
        agent: Who searches; a name or an object.
        reward: What a network is paid; a name, weights by name, or a function.
        criterion: What ranks channels; a name or an object.
        settings: Everything else about the environment.
        episodes: At most so many networks are tried.
        seed: Of the agent.
        on_episode: Is told every episode.

    Raises:
        ValueError: Something does not fit; the message says what was given and what would do.
    """
    data = PruningData(
        calibration=Split.of(calibration),
        validation=Split.of(validation),
        test=Split.of(test) if test is not None else None,
    )
    env = ChannelPruningEnv(
        model=model,
        data=data,
        criterion=criterion,
        reward=reward,
        budget=Budget(flops=budget) if isinstance(budget, (int, float)) else budget,
        settings=settings,
    )
    result = make_agent(agent).search(env, episodes=episodes, seed=seed, on_episode=on_episode)
    return replace(result, compact=env.pruner.prune_sequentially(result.best.counts))
