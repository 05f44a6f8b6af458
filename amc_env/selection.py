"""From scores and a sparsity to the channels that stay."""

from math import ceil

from torch import Tensor

# (1 - 0.29) * 100 is 71.00000000000001 in floating point; so small an excess is no channel.
_TOLERANCE = 1e-9


def kept_count(channels: int, *, sparsity: float) -> int:
    r"""How many of ``channels`` stay.

    .. math:: m = \max(1, \lceil (1 - s) n \rceil)

    ``s`` is the sparsity in [0, 1]; ``n`` the channels.

    Raises:
        ValueError: There are no channels, or the sparsity is outside [0, 1].
    """
    if channels < 1:
        raise ValueError(f"channels is {channels}; a group has at least 1")
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparsity is {sparsity}; give a number from 0 (all stay) to 1")
    return max(1, ceil((1.0 - sparsity) * channels - _TOLERANCE))


def ranking(scores: Tensor) -> Tensor:
    """Channel indices from the highest score to the lowest; of equal scores the lower index first.

    Raises:
        ValueError: The scores are not one finite number a channel.
    """
    if scores.dim() != 1 or scores.numel() == 0:
        raise ValueError(
            f"scores have the shape {tuple(scores.shape)}; give one number for every channel"
        )
    if not scores.isfinite().all():
        channel = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(f"the score of channel {channel} is {scores[channel].item()}")
    return scores.argsort(descending=True, stable=True)


def best_channels(scores: Tensor, *, count: int) -> Tensor:
    """Indices of the ``count`` highest scores, ascending.

    Raises:
        ValueError: There are fewer channels, or the scores cannot be ranked.
    """
    if not 1 <= count <= len(scores):
        raise ValueError(f"{count} channels cannot stay; give a number from 1 to {len(scores)}")
    return ranking(scores)[:count].sort().values
