"""Training images that are held out of fine-tuning, to judge it by."""

import torch

from amc_env.data.sources import Source
from amc_env.data.splits import draw

# Images held out of fine-tuning: a tenth, but of few images at least so many, or a quarter.
_HELD_OUT_AT_LEAST = 250


def hold_out(
    train: Source, *, calibration: int, validation: int, selection: int, seed: int
) -> tuple[Source, Source]:
    """Training data in two parts: images to fine-tune on, and held-out images to judge by.

    The held-out images are those that ``PruningData.of_training`` draws with the same arguments for
    selection, and after these for validation, so neither the repair, which reads the calibration
    split, nor the fine-tuning is fitted to them. They are a tenth of the training data, of small
    data sets at least 250 images or a quarter, and never more than both splits.

    Raises:
        ValueError: All training data is needed for calibration.
    """
    if len(train) <= calibration:
        raise ValueError(
            f"of {len(train)} training samples, {calibration} are for calibration, so none can be "
            "held out from fine-tuning; give more samples, or a smaller calibration split"
        )
    drawn = draw(
        train.strata,
        calibration=calibration,
        validation=validation,
        selection=selection,
        seed=seed,
    )
    share = max(len(train) // 10, min(len(train) // 4, _HELD_OUT_AT_LEAST), 1)
    held = torch.cat([drawn["selection"], drawn["validation"]])[:share]
    is_fitted = torch.ones(len(train), dtype=torch.bool)
    is_fitted[held] = False
    return train.take(is_fitted.nonzero().flatten()), train.take(held)
