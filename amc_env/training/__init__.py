"""Training and fine-tuning: settings, steps, and trainings whose state can be saved."""

from amc_env.training.settings import TrainingSettings
from amc_env.training.training import (
    DivergedError,
    Training,
    expected_seconds,
    fit_,
    held_out_loss,
    with_measured_precision,
)

__all__ = [
    "DivergedError",
    "Training",
    "TrainingSettings",
    "expected_seconds",
    "fit_",
    "held_out_loss",
    "with_measured_precision",
]
