"""From the numbers of channels that a search found to the network that is kept."""

from collections.abc import Mapping, Sequence

from torch import nn

from amc_env.env.environment import ChannelPruningEnv


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
