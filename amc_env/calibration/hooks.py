"""Runs of a model on samples that leave no trace in it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, is_batch, tensors_in


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


def checked_batch(batch: object) -> Batch:
    """The batch itself, if it consists of tensors of at least one sample.

    Raises:
        ValueError: It is not.
    """
    # A loader with labels yields lists of inputs and labels.
    if isinstance(batch, list) or not is_batch(batch):
        raise ValueError(
            f"a calibration batch is a {type(batch).__name__}; give tensors of samples, "
            "without their labels"
        )
    for x in tensors_in(batch):
        if x.dim() == 0 or x.numel() == 0:
            raise ValueError(
                f"a calibration batch has the shape {tuple(x.shape)}; give at least one sample"
            )
    return batch  # type: ignore[return-value]


def run(model: nn.Module, batch: Batch) -> object:
    """The output of ``model`` for a batch of samples.

    Raises:
        ValueError: The model cannot run on it.
    """
    try:
        return call(model, batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        shapes = " and ".join(f"{tuple(x.shape)} and type {x.dtype}" for x in tensors_in(batch))
        raise ValueError(
            f"the model cannot run on calibration samples of shape {shapes}; give them as it was "
            f"trained on ({error})"
        ) from error


def run_until_enough(model: nn.Module, batch: Batch) -> None:
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
