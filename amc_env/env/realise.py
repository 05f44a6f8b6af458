"""From the numbers of channels that a search found to the network that is kept."""

import copy
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from amc_env.env.environment import ChannelPruningEnv
from amc_env.training import TrainingSettings, fit_


def realise(
    env: ChannelPruningEnv, candidates: Sequence[Mapping[str, int]]
) -> tuple[int, nn.Module]:
    """Repair networks layer by layer, and return the index of the best and its network.

    Each layer is repaired on the inputs that the pruned network itself gives it, which takes longer
    than the repair within an episode and makes a better network. If there are several candidates,
    each repaired network is rewarded on the selection split, on the validation split where there is
    none, and the greatest reward wins; of equal rewards, the first.

    Args:
        env: The environment that the candidates were found in.
        candidates: How many channels each group keeps, for each candidate.

    Raises:
        ValueError: There is no candidate, or a group cannot keep that many channels.
    """
    if not candidates:
        raise ValueError("there is no candidate to realise; give at least one")
    best = 0
    compact = env.pruner.prune_sequentially(candidates[0])
    # A single candidate needs no reward, and rewards take time.
    reward = env.judge(compact, candidates[0]).reward if len(candidates) > 1 else 0.0
    for index, counts in enumerate(candidates[1:], start=1):
        other = env.pruner.prune_sequentially(counts)
        paid = env.judge(other, counts).reward
        if paid > reward:
            best, compact, reward = index, other, paid
    return best, compact


def adjust(
    env: ChannelPruningEnv,
    compact: nn.Module,
    counts: Mapping[str, int],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train all weights of a repaired network towards the original's class scores, without labels.

    A repair layer by layer leaves what one layer cannot make up for; here all weights are moved
    together, on the calibration samples. The teacher is the original network (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015). The network is returned as it was given
    unless its reward on the selection split, or on the validation split where there is none,
    becomes greater; labels are read for this comparison alone.

    Args:
        env: The environment that the network is from.
        compact: The repaired network; it is not modified.
        counts: How many channels each group keeps in it.
        settings: How to train; ``distil`` must be 1.
        seed: Seed of the order and of the augmentation of the samples.
        on_epoch: Called with the number of each finished epoch, from 1, and its mean loss.

    Raises:
        ValueError: ``distil`` is less than 1, so that labels would be read, or the loss is not a
            number.
    """
    if settings.distil != 1:
        raise ValueError(
            f"distil is {settings.distil}; an adjustment reads no labels, so give distil=1"
        )
    moved = copy.deepcopy(compact)
    fit_(
        moved,
        env.data.calibration,
        settings,
        teacher=env.graph.model,
        seed=seed,
        on_epoch=on_epoch,
    )
    is_better = env.judge(moved, counts).reward > env.judge(compact, counts).reward
    return moved if is_better else compact
