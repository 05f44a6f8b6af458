"""From the numbers of channels that a search found to the network that is kept."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn

from amc_env.env.environment import ChannelPruningEnv
from amc_env.memory import Memory, forgetful
from amc_env.training import Training, TrainingSettings, held_out_loss


def realise(
    env: ChannelPruningEnv, candidates: Sequence[Mapping[str, int]]
) -> tuple[int, nn.Module]:
    """Make networks as a search keeps them, and return the index of the best and its network.

    Each layer is repaired on the inputs that the pruned network itself gives it, on all calibration
    samples, which makes a better network than the repair within an episode. Where the settings
    repair nothing, channels are only cut. If there are several candidates, each
    network is rewarded on the selection split, on the validation split where there is
    none, and the greatest reward wins; of equal rewards, the first.

    Args:
        env: The environment that the candidates were found in.
        candidates: How many channels each group keeps, for each candidate.

    Raises:
        ValueError: There is no candidate, or a group cannot keep that many channels.
    """
    if not candidates:
        raise ValueError("there is no candidate to realise; give at least one")
    # A single candidate needs no reward, and rewards take time.
    best, compact = _best(env, candidates) if len(candidates) > 1 else (0, None)
    return best, compact or env.pruner.realise(candidates[best])


def _best(
    env: ChannelPruningEnv, candidates: Sequence[Mapping[str, int]]
) -> tuple[int, nn.Module | None]:
    """The index of the best candidate, and its network unless its reward was remembered."""
    networks: dict[int, nn.Module] = {}

    def judged(index: int) -> float:
        networks[index] = env.pruner.realise(candidates[index])
        return env.judge(networks[index], candidates[index]).reward

    best, reward = 0, float("-inf")
    for index, counts in enumerate(candidates):
        compute = partial(judged, index)
        paid: float = env.remembered(counts, "reward of the repaired network", compute)
        worse = index
        if paid > reward:
            worse, best, reward = best, index, paid
        if worse != best:
            # Networks may be large; the best one alone is held.
            networks.pop(worse, None)
    return best, networks.get(best)


def adjustment(
    env: ChannelPruningEnv,
    compact: nn.Module,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    memory: Memory = forgetful,
) -> Training:
    """The training of a copy of a repaired network towards the original's outputs.

    Args:
        env: The environment that the network is from.
        compact: The repaired network; it is not modified.
        settings: How to train; ``distil`` must be 1.
        seed: Seed of the order and of the augmentation of the samples.
        memory: Is asked for the precision before one is measured.

    Raises:
        ValueError: ``distil`` is less than 1, so that labels would be read.
    """
    if settings.distil != 1:
        raise ValueError(
            f"distil is {settings.distil}; an adjustment reads no labels, so give distil=1"
        )
    return Training(
        copy.deepcopy(compact),
        env.data.adjusting,
        settings,
        task=env.task,
        teacher=env.graph.model,
        seed=seed,
        memory=memory,
    )


def nearer(
    env: ChannelPruningEnv, compact: nn.Module, adjusted: nn.Module, settings: TrainingSettings
) -> nn.Module:
    """The adjusted network if it has come nearer to the original, else the one it was made of.

    How near a network is, is the loss that it was adjusted by, on the samples of the selection
    split, on those of the validation split where there is none. The reward would be a worse judge:
    it may be an entropy, and an accuracy or a loss on labels is all but perfect where the original
    knows its training samples by heart.

    Args:
        env: The environment that the networks are from.
        compact: The network that was adjusted; it is returned where both are equally near.
        adjusted: What it has become.
        settings: How it was trained.
    """
    first, second = (
        held_out_loss(network, env.data.judging, settings, task=env.task, teacher=env.graph.model)
        for network in (compact, adjusted)
    )
    return adjusted if second < first else compact


def adjust(
    env: ChannelPruningEnv,
    compact: nn.Module,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train all weights of a repaired network towards the original's outputs, without labels.

    A repair layer by layer leaves what one layer cannot make up for; here all weights are moved
    together, on the samples for adjustment. The teacher is the original network (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015). The network is returned as it was given
    unless it comes nearer to the original on samples that it was not trained on; see
    :func:`nearer`.

    Args:
        env: The environment that the network is from.
        compact: The repaired network; it is not modified.
        settings: How to train; ``distil`` must be 1.
        seed: Seed of the order and of the augmentation of the samples.
        on_epoch: Called with the number of each finished epoch, from 1, and its mean loss.

    Raises:
        ValueError: ``distil`` is less than 1, so that labels would be read, or the loss is not a
            number.
    """
    training = adjustment(env, compact, settings, seed=seed)
    training.run_(on_epoch)
    return nearer(env, compact, training.model, training.settings)
