"""Where PyTorch's global random generators are, to put them back there later."""

from collections.abc import Mapping

import torch
from torch import Tensor


def random_states() -> dict[str, Tensor]:
    """The states of the global generators, of the CPU and of all CUDA devices that are in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state()} | {f"cuda:{i}": state for i, state in enumerate(cuda)}


def restore_random_states_(states: Mapping[str, Tensor]) -> None:
    """Put the global generators where they were."""
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
