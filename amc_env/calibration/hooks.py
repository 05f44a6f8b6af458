"""Runs of a model on samples that leave no trace in it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn


class EnoughError(Exception):
    """Raised by a listener to end a run that has shown all that is needed."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients; every module gets its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def listening(
    layers: Mapping[str, nn.Module],
    *,
    before: Callable[[str, nn.Module, Tensor], None] | None = None,
    after: Callable[[str, nn.Module, Tensor], None] | None = None,
) -> Iterator[None]:
    """Call listeners whenever one of ``layers`` runs; they are removed at the end in any case.

    ``before`` gets a layer's name, the layer and its input just before it runs; ``after`` gets the
    name, the layer and its output.
    """
    handles = []
    try:
        for name, layer in layers.items():
            if before is not None:
                hook = _before_hook(name, before)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            if after is not None:
                handles.append(layer.register_forward_hook(_after_hook(name, after)))
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    """The output of ``model`` for a batch of samples.

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


def run_until_enough(model: nn.Module, batch: Tensor) -> None:
    """Run ``model`` on a batch, until its end or until a listener raises ``EnoughError``."""
    with suppress(EnoughError):
        run(model, batch)


def _before_hook(
    name: str, listener: Callable[[str, nn.Module, Tensor], None]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The input may be passed by keyword, which hooks without kwargs do not show.
        listener(name, layer, args[0] if args else kwargs["input"])

    return hook


def _after_hook(
    name: str, listener: Callable[[str, nn.Module, Tensor], None]
) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        listener(name, layer, output)

    return hook
