"""The order of channels by their scores, best first."""

from torch import Tensor


def ranking(scores: Tensor) -> Tensor:
    """Channel indices from the highest score to the lowest; of equal scores the lower index first.

    Raises:
        ValueError: The scores are not one finite number for each channel.
    """
    if scores.dim() != 1 or scores.numel() == 0:
        raise ValueError(
            f"scores have the shape {tuple(scores.shape)}; give one number for every channel"
        )
    if not scores.isfinite().all():
        channel = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(f"the score of channel {channel} is {scores[channel].item()}")
    return scores.argsort(descending=True, stable=True)
