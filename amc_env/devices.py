"""Where there is float64, and where there is not."""

import torch
from torch import Tensor


def with_float64(tensor: Tensor) -> Tensor:
    """The tensor where float64 exists: on its own device, or else on the CPU."""
    return tensor.to(solving_device(tensor.device))


def solving_device(device: torch.device) -> torch.device:
    """Where tensors of ``device`` are summed up and solved in float64: there, or on the CPU."""
    if device.type in ("cpu", "cuda"):
        return device
    # Apple's GPUs (mps) and some of Intel's have no float64. Torch has no list of such devices, but
    # making a tensor fails there.
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device
