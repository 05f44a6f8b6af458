"""From a search's episodes to the network that is kept."""

from dataclasses import replace

from agents.episodes import Episode, SearchResult
from amc_env import ChannelPruningEnv


def realise(env: ChannelPruningEnv, result: SearchResult, *, finalists: int = 1) -> SearchResult:
    """The search with its network repaired layer by layer on what it really computes.

    The best ``finalists`` policies are each repaired so and paid once more on the mini split; the
    best of them is the result's.

    Raises:
        ValueError: ``finalists`` is less than 1.
    """
    if finalists < 1:
        raise ValueError(f"finalists is {finalists}; give at least 1")
    chosen = [
        (env.pruner.prune_sequentially(episode.counts), episode)
        for episode in _best(result, finalists)
    ]
    if len(chosen) > 1:
        chosen.sort(key=lambda pair: -env.pay(pair[0], pair[1].counts).reward)
    compact, best = chosen[0]
    policy = env.policy(best.counts, seed=result.policy.seed)
    return replace(result, policy=policy, compact=compact, best=best)


def _best(result: SearchResult, count: int) -> list[Episode]:
    """Episodes of different policies, the best paid first."""
    ordered = sorted(result.episodes, key=lambda episode: -episode.reward)
    distinct = {tuple(sorted(episode.counts.items())): episode for episode in reversed(ordered)}
    return sorted(distinct.values(), key=lambda episode: (-episode.reward, episode.number))[:count]
