"""Processes that train one network together, as ``torchrun`` starts them."""

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if _are_several() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if _are_several() else 0


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of each value over all processes, which all have to ask for it."""
    if not _are_several():
        return values
    whole = values.clone()
    dist.all_reduce(whole)
    return whole / processes()


def own_generator(generator: torch.Generator) -> torch.Generator:
    """A generator of this process alone, if there are several.

    The given one does not move on, so that all processes, and a training in a single one, draw the
    same orders.
    """
    if not _are_several():
        return generator
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    seed = int(torch.randint(2**31, (), generator=twin))
    return torch.Generator().manual_seed(seed + rank())


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()
