"""What an episode would pay for policies, against how good their networks are in the end."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan, nan

import torch

from amc_env.env.environment import ChannelPruningEnv
from amc_env.rewards import Reward, RewardContext
from amc_env.rewards.functions import loss
from amc_env.trust.ranks import bootstrap_interval, rank_correlation

PARAMETERS_LEFT = "parameters left"
ERROR_CURVES = "summed error curves"

# A search cannot learn anything from it, whatever its correlation with a few policies.
_NEVER_BEST = "random"


@dataclass(frozen=True, kw_only=True)
class TriedPolicy:
    """A policy, what predicts its network before it is realised, and the realised network.

    Attributes:
        counts: How many channels each group keeps.
        flops_ratio: Its multiply-accumulates, relative to the original network's.
        params_ratio: Its parameters, relative to the original network's.
        predicted: By name, what each reward pays for the network as an episode repairs it; NaN for
            a reward that refuses the network. Beside them the ratio of parameters left, and minus
            the sum of the groups' error curves, which need no network at all.
        accuracy: Top-1 accuracy of the realised network on the selection split.
        loss: Its cross-entropy there.
    """

    counts: Mapping[str, int]
    flops_ratio: float
    params_ratio: float
    predicted: Mapping[str, float]
    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A rank correlation with its bootstrap interval; NaN where there is none.

    Attributes:
        correlation: Spearman's rank correlation.
        low: The lower end of its 95 % interval.
        high: The upper end.
    """

    correlation: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How well something ranks policies before their networks are realised.

    Attributes:
        name: Of a reward, or of another prediction.
        is_reward: Whether it is a reward.
        loss: Its agreement with minus the cross-entropy of the realised networks. This is what
            predictions are judged by: of a few hundred images, many networks classify equally many.
        accuracy: Its agreement with the accuracy of the realised networks.
    """

    name: str
    is_reward: bool
    loss: Agreement
    accuracy: Agreement


def tried(
    env: ChannelPruningEnv, policies: Sequence[Mapping[str, int]], rewards: Mapping[str, Reward]
) -> Iterator[TriedPolicy]:
    """Try policies one by one: predict each network, realise it, and score it.

    The prediction is that of an episode: its repair, and rewards on the validation split. The
    realised network is made as the result of a search is, repaired layer by layer unless the
    settings repair nothing, and scored on the selection split.

    Args:
        env: The environment.
        policies: How many channels each group keeps, for each policy.
        rewards: The rewards by name.

    Raises:
        ValueError: The environment's data has no selection split.
    """
    if env.data.selection is None:
        raise ValueError(
            "realised networks are scored on the selection split, but the data has none; give "
            "PruningData a selection split"
        )
    for counts in policies:
        episode = predicted(env, counts, rewards)
        realised = env.context(env.pruner.realise(counts), counts, on="selection")
        yield replace(episode, accuracy=realised.accuracy, loss=-loss(realised))


def predicted(
    env: ChannelPruningEnv, counts: Mapping[str, int], rewards: Mapping[str, Reward]
) -> TriedPolicy:
    """A policy with all that predicts its network; accuracy and loss are NaN until it is realised.

    Args:
        env: The environment.
        counts: How many channels each group keeps.
        rewards: The rewards by name.
    """
    episode = env.context(env.pruner.prune(counts).model, counts)
    full = env.graph.cost()
    params_ratio = episode.cost.params / full.params
    lost = sum(env.pruner.squared_errors(name)[kept - 1] for name, kept in counts.items())
    return TriedPolicy(
        counts=counts,
        flops_ratio=episode.cost.flops / full.flops,
        params_ratio=params_ratio,
        predicted={
            **{name: _paid(reward, episode) for name, reward in rewards.items()},
            PARAMETERS_LEFT: params_ratio,
            ERROR_CURVES: -float(lost),
        },
        accuracy=nan,
        loss=nan,
    )


def measure(policies: Sequence[TriedPolicy], *, seed: int = 0) -> list[Trust]:
    """How well each reward and other prediction ranks the policies, the best first.

    Args:
        policies: Policies that were tried with the same rewards.
        seed: Seed of the bootstrap.
    """
    accuracies = [policy.accuracy for policy in policies]
    losses = [-policy.loss for policy in policies]
    found = []
    for name in policies[0].predicted:
        values = [policy.predicted[name] for policy in policies]
        trust = Trust(
            name=name,
            is_reward=name not in (PARAMETERS_LEFT, ERROR_CURVES),
            loss=_agreement(values, losses, seed=seed),
            accuracy=_agreement(values, accuracies, seed=seed),
        )
        found.append(trust)
    return sorted(found, key=_order)


def best_reward(found: Sequence[Trust]) -> Trust:
    """The reward that ranks the policies best; never ``random``, whatever its correlation.

    Raises:
        ValueError: No reward ranks the policies at all.
    """
    rewards = [trust for trust in found if trust.is_reward and trust.name != _NEVER_BEST]
    best = min(rewards, key=_order, default=None)
    if best is None or isnan(best.loss.correlation):
        raise ValueError(
            "no reward ranks the policies that were tried: their realised networks are equally "
            "good, or every reward refuses them; choose a reward yourself"
        )
    return best


def _order(trust: Trust) -> float:
    """A number that sorts the best first, and what has no correlation last."""
    correlation = trust.loss.correlation
    return 2.0 if isnan(correlation) else -correlation


def _agreement(values: Sequence[float], scores: Sequence[float], *, seed: int) -> Agreement:
    low, high = bootstrap_interval(values, scores, seed=seed)
    return Agreement(correlation=rank_correlation(values, scores), low=low, high=high)


@torch.no_grad()
def _paid(reward: Reward, episode: RewardContext) -> float:
    try:
        # Many rewards are only compared here; what one warns of is told where it is used.
        with warnings.catch_warnings(action="ignore"):
            paid = float(reward(episode))
    except ValueError:
        # The rewards from entropy refuse networks in which no map varies; others still rank them.
        return nan
    return paid if isfinite(paid) else nan
