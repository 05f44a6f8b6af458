"""What a network gives on a fixed split: fast for rewards, exact for reports."""

import time
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from amc_env.data import Split
from amc_env.running import evaluating

Precision = Literal["auto", "float32", "bfloat16"]


class Evaluator:
    """Class scores of networks on one split, in memory and never through a loader.

    Args:
        split: The samples.
        batch: How many run together.
        precision: ``bfloat16`` runs convolutions in half the bits, channels last; ``auto`` does so
            where the machine has units for it.

    Raises:
        ValueError: The batch or precision is wrong.
    """

    def __init__(self, split: Split, *, batch: int = 100, precision: Precision = "auto") -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; give at least 1")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision {precision!r} does not exist; choose {', '.join(get_args(Precision))}"
            )
        self.split = split
        self._is_fast = (
            has_bfloat16_units(split.inputs.device)
            if precision == "auto"
            else precision != "float32"
        )
        self._batches = fastest_layout(split.inputs).split(batch)

    def logits(self, model: nn.Module) -> Tensor:
        """Class scores (samples, classes), float32.

        Raises:
            ValueError: The network gives no class scores, or not for as many classes.
        """
        device = self._batches[0].device.type
        with evaluating(model), torch.autocast(device, torch.bfloat16, enabled=self._is_fast):
            scores = torch.cat([_scores(model(x)) for x in self._batches]).float()
        classes = int(self.split.labels.max()) + 1
        if scores.shape[1] < classes:
            raise ValueError(
                f"the network gives scores of {scores.shape[1]} classes, but there is a label "
                f"{classes - 1}; give labels from 0 to {scores.shape[1] - 1}"
            )
        return scores

    def accuracy(self, model: nn.Module) -> float:
        """Share of the samples whose highest score is their class's."""
        return accuracy_of(self.logits(model), self.split.labels)


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose highest score is their class's."""
    return float((logits.argmax(1) == labels).double().mean())


def fastest_layout(inputs: Tensor) -> Tensor:
    """Images with channels last, which convolutions in bfloat16 want; other inputs as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether multiplying in bfloat16 is faster than in float32 on a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001


def latencies_ms(models: Sequence[nn.Module], x: Tensor, *, repeats: int = 15) -> list[float]:
    """Median time of one run of each network on ``x``, in milliseconds.

    The networks take turns, so that whatever else the machine does meets them all alike; each runs
    once more before, which does not count.
    """
    times: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, mine in zip(models, times, strict=True):
            with evaluating(model):
                started = time.perf_counter()
                model(x)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
            if turn:
                mine.append(1e3 * (time.perf_counter() - started))
    return [sorted(mine)[len(mine) // 2] for mine in times]


def _scores(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the network gives {given}; it must give scores (samples, classes)")
    return output
