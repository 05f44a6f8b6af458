"""From a sparsity to a number of channels."""

from math import ceil

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
