"""A run that ``torchrun`` has started: its first process runs it, and all processes train.

Everything but the trainings happens in the first process alone, which writes the run's folder too.
The others wait for its trainings, take part in each, and forget it again.
"""

import copy
import gc
import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from amc_env.data import Source
    from amc_env.tasks import Task
    from amc_env.training import Training, TrainingSettings

# PyTorch takes seconds to import, so that this module imports it where there are several processes.

# A search between two trainings may take long.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shared:
    """What another process needs to take part in a training, with all tensors on the CPU."""

    model: "nn.Module"
    split: "Source"
    settings: "TrainingSettings"
    task: "Task"
    teacher: "nn.Module | None"
    state: Mapping[str, Any]
    device: str
    threads: int

    def train(self) -> None:
        """Take part."""
        import torch

        from amc_env.training import DivergedError, Training

        torch.set_num_threads(self.threads)
        device = _own_device(self.device)
        training = Training(
            self.model.to(device),
            self.split.to(device),
            self.settings,
            task=self.task,
            teacher=None if self.teacher is None else self.teacher.to(device),
        )
        training.restore_(self.state)
        # The loss is the same in all processes, and the first one says what is to be said.
        with suppress(DivergedError):
            training.run_()


def launched() -> int:
    """How many processes ``torchrun`` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_follower() -> bool:
    """Whether another process runs what this one only takes part in."""
    return launched() > 1 and os.environ["RANK"] != "0"


def begin() -> None:
    """Meet the other processes, if ``torchrun`` has started any."""
    if launched() == 1:
        return
    import torch
    from torch import distributed as dist

    with_cuda = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)


def share(training: "Training") -> None:
    """Let the other processes take part in the rest of a training, where there are any.

    Raises:
        ValueError: The network or the samples cannot be sent to another process.
    """
    if launched() == 1 or training.is_finished:
        return
    import torch

    teacher = training.teacher
    shared = _Shared(
        model=_on_cpu(training.model),
        split=training.split.to("cpu"),
        settings=training.settings,
        task=training.task,
        teacher=None if teacher is None else _on_cpu(teacher),
        state=training.state(),
        device=training.split.device.type,
        threads=torch.get_num_threads(),
    )
    try:
        content = pickle.dumps(shared)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"the training cannot be shared with other processes, for {error}; run it without "
            "torchrun"
        ) from error
    _broadcast(content)


def follow() -> int:
    """Take part in all trainings of the first process; the exit status once it is done."""
    begin()
    while content := _broadcast(None):
        # From the first process of this very run.
        shared: _Shared = pickle.loads(content)
        shared.train()
    _end()
    return 0


def dismiss() -> None:
    """Tell the other processes that there is no training left, if there are any."""
    if launched() > 1:
        _broadcast(b"")
        _end()


def _broadcast(content: bytes | None) -> bytes:
    """What the first process sends; in that process what it is given."""
    from torch import distributed as dist

    held = [content]
    dist.broadcast_object_list(held, src=0)
    return held[0] or b""


def _end() -> None:
    from torch import distributed as dist

    # Where one process left before another, or what had trained together still held the group, a
    # process was aborted now and then when all was done.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def _on_cpu(model: "nn.Module") -> "nn.Module":
    return copy.deepcopy(model).cpu()


def _own_device(kind: str) -> "torch.device":
    import torch

    return (
        torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    )
