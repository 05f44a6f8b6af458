"""Failures in the middle of a run, explained in one sentence that says what was saved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# What PyTorch's allocators say on different systems; on the CPU it is a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of an accelerator; the cause counts too."""
    if error.__cause__ is not None and is_out_of_memory(error.__cause__):
        return True
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _OUT_OF_MEMORY)


def nothing_saved() -> str:
    """The end of the sentence where a failure leaves nothing."""
    return ""


@contextmanager
def explained(
    doing: str, *, smaller: str, saved: Callable[[], str] = nothing_saved
) -> Iterator[None]:
    """Explain what fails in the block.

    Args:
        doing: What the block does, to follow "while".
        smaller: Settings that lower its need of memory.
        saved: Says after a failure what is in the run's folder, or nothing.

    Raises:
        ValueError: Memory ran out, or the block raised a ValueError or an OSError. All other
            errors pass with a note of what was saved, for they need their traceback.
    """
    try:
        yield
    except Exception as error:
        where = saved()
        ending = f"; {where}" if where else ""
        if is_out_of_memory(error):
            message = f"memory ran out while {doing}; make {smaller} smaller{ending}"
            raise ValueError(message) from error
        if where and isinstance(error, (ValueError, OSError)):
            raise ValueError(f"{error}{ending}") from error
        if where:
            error.add_note(where)
        raise
