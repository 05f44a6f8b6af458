"""What calibration samples say about a model: maps, gradients, and sums over unfolded inputs."""

from amc_env.calibration.calibrate import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
