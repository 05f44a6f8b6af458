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
