"""Feature maps, gradients and Gram matrices of a model on calibration samples."""

from amc_env.calibration.calibrate import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
