"""Memory layout and precision in which a device runs convolutions fastest."""

import torch
from torch import Tensor


def fastest_layout(inputs: Tensor) -> Tensor:
    """Images with channels last, the fastest layout for bfloat16; other inputs unchanged."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device has units that multiply in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001


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
