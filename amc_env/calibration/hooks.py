"""Runs of a model on samples that leave no trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def checked_batch(batch: object) -> Tensor:
    """The batch itself, if it is a tensor of at least one sample.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(batch, Tensor):
        raise ValueError(
            f"a calibration batch is a {type(batch).__name__}; give tensors of samples, "
            "without their labels"
        )
    if batch.dim() == 0 or batch.numel() == 0:
        raise ValueError(
            f"a calibration batch has the shape {tuple(batch.shape)}; give at least one sample"
        )
    return batch


def run(model: nn.Module, batch: Tensor) -> Tensor:
    """What ``model`` gives for a batch of samples.

    Raises:
        ValueError: The model cannot run on it.
    """
    try:
        output: Tensor = model(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot run on calibration samples of shape {tuple(batch.shape)} and type "
            f"{batch.dtype}; give them as it was trained on ({error})"
        ) from error
    return output


def input_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A layer's input, however it was passed."""
    given: Tensor = args[0] if args else kwargs["input"]
    return given
