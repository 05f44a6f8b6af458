"""The greatest reward that a network can still reach after a part of the samples."""

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from amc_env.batches import Batch, count, first_tensor, joined, taken
from amc_env.rewards import functions
from amc_env.rewards.context import Reward, RewardContext
from amc_env.rewards.functions import WeightedSum
from amc_env.tasks import Task

# A margin between logits at which the softmax of float32 is exactly 0 or 1.
_CERTAIN = 1e4


def _certain(context: RewardContext) -> Tensor:
    """Class scores that give every sample its own class with probability 1."""
    scores = first_tensor(context.original_outputs)
    return _CERTAIN * F.one_hot(context.labels, scores.shape[1]).to(scores)


def _original(context: RewardContext) -> Batch:
    return context.original_outputs


# The class scores at which a sample pays most. No other scores of that sample can pay more, since
# each of these rewards rises with a mean over samples of which every term has its greatest value
# there.
_BEST_SCORES: tuple[tuple[Reward, Callable[[RewardContext], Batch]], ...] = (
    (functions.accuracy, _certain),
    (functions.loss, _certain),
    (functions.neg_error_log_flops, _certain),
    (functions.kl_to_original, _original),
)


def has_upper_bound(reward: Reward, task: Task) -> bool:
    """Whether :func:`upper_bound` is known for a reward.

    It is for ``accuracy``, ``loss``, ``neg_error_log_flops``, ``kl_to_original``, and for sums of
    them with weights that are not negative. Where samples have no classes, it is for
    ``kl_to_original`` alone.
    """
    if isinstance(reward, WeightedSum):
        is_rising = all(weight >= 0 for weight in reward.weights.values())
        return is_rising and all(has_upper_bound(part, task) for part in reward.parts.values())
    # Rewards of a user's need not be hashable, hence no look-up.
    return any(
        reward is bounded and (task.has_classes or best is _original)
        for bounded, best in _BEST_SCORES
    )


def upper_bound(reward: Reward, context: RewardContext, outputs: Batch) -> float:
    """The reward if all samples that are not evaluated yet paid as much as a sample can.

    Args:
        reward: A reward that has an upper bound.
        context: The finished episode, on the whole validation split.
        outputs: Those of the compact network on the first samples.
    """
    if isinstance(reward, WeightedSum):
        bounds = {n: upper_bound(part, context, outputs) for n, part in reward.parts.items()}
        return reward.total(bounds)
    best = next(scores_of for bounded, scores_of in _BEST_SCORES if bounded is reward)(context)
    rest = taken(best, slice(count(outputs), None))
    return reward(replace(context, known=joined([outputs, rest])))
