"""Trainings in processes that share them, as ``torchrun`` starts them."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from amc_env import Split
from amc_env.models import build_model
from amc_env.training import Training, TrainingSettings, expected_seconds, held_out_loss

# Each process is forked from one that has imported what takes seconds to import.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["amc_env.training", "amc_env.models"])

Weights = dict[str, Tensor]


def images(count: int = 41) -> Split:
    generator = torch.Generator().manual_seed(5)
    return Split(
        inputs=torch.randn(count, 1, 28, 28, generator=generator), labels=torch.arange(count) % 10
    )


def trained(settings: TrainingSettings) -> tuple[Weights, float]:
    """The weights of LeNet-5, which has no batch norm, and the last loss."""
    torch.set_num_threads(1)
    model, teacher = (build_model("lenet5", seed=seed) for seed in (0, 1))
    losses: list[float] = []
    # Neither takes part in the training of the others.
    held_out_loss(model, images(7), settings, teacher=teacher)
    expected_seconds(model, images(), settings, teacher=teacher)
    training = Training(model, images(), settings, teacher=teacher, seed=2)
    training.run_(lambda _, loss: losses.append(loss))
    return model.state_dict(), losses[-1]


def trained_by(
    processes: int, settings: TrainingSettings, folder: Path
) -> list[tuple[Weights, float]]:
    """What every one of the processes has at the end."""
    started = [
        _PROCESSES.Process(target=_train, args=(rank, processes, settings, folder))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    assert [process.exitcode for process in started] == [0] * processes
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _train(rank: int, processes: int, settings: TrainingSettings, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=200),
    )
    torch.save(trained(settings), folder / f"{rank}.pt")
    dist.destroy_process_group()
