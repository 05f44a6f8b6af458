"""The networks that are pruned: trained, and with data to calibrate and to test them."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from amc_env.data import Source
from amc_env.data.datasets import arrays, digits
from amc_env.evaluation import Evaluator
from amc_env.models import build_model, load_checkpoint_
from amc_env.training import TrainingSettings, fit_


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A trained network and its data.

    Attributes:
        name: What tables call it.
        model: The network.
        train: Calibration images are drawn from these samples.
        test: Accuracy is measured on these samples.
        is_original: For each test image whether it is as the network's training had it.
        reencoded: Training samples that are not as the network's training had them, if there are
            any: good enough to read without labels.
        ignore: Modules whose output channels stay.
    """

    name: str
    model: nn.Module
    train: Source
    test: Source
    is_original: Tensor
    reencoded: Source | None = None
    ignore: tuple[str, ...] = ()


def published(folder: Path, name: str, *, data: Path | None = None) -> Subject:
    """A ResNet for CIFAR-10 with published weights.

    Args:
        folder: Holds ``models/cifar10_resnet56.th`` and the like, and the data if none is given.
        name: Name of the network, such as ``cifar_resnet56``.
        data: An ``.npz`` with ``train_x``, ``train_y``, ``test_x`` and ``test_y`` and, where some
            images are re-encoded, with ``train_lossless`` and ``test_lossless``, which say which
            are not. Calibration images are drawn from those that are not.

    Raises:
        ValueError: The data or the weights are not there, or do not fit.
    """
    path = data or folder / "data" / "cifar10_lossless.npz"
    found = arrays(path=str(path))
    model = build_model(name)
    load_checkpoint_(model, folder / "models" / f"{name.replace('cifar_', 'cifar10_')}.th")
    are_original = _are_original(path, "train", len(found.train))
    others = (~are_original).nonzero().flatten()
    return Subject(
        name=name,
        model=model.eval(),
        train=found.train.take(are_original.nonzero().flatten()),
        test=found.test.resident(),
        is_original=_are_original(path, "test", len(found.test)),
        reencoded=found.train.take(others) if len(others) else None,
        # The channels of the residual stream stay, as in He et al. (2018).
        ignore=("conv1",),
    )


def is_right(test: Evaluator, network: nn.Module) -> Tensor:
    """Whether a network classifies each of an evaluator's samples right."""
    scores, labels = test.outputs(network), test.split.labels
    assert isinstance(scores, Tensor)
    assert isinstance(labels, Tensor)
    return scores.argmax(1) == labels


def add_published_options(parser: argparse.ArgumentParser, *, model: str) -> None:
    """Let a command choose a network that :func:`published` knows, by default ``model``."""
    parser.add_argument("folder", type=Path, help="holds models/ and, without --data, data/")
    parser.add_argument("--data", type=Path, help="an .npz of all images")
    parser.add_argument("--model", default=model)
    parser.add_argument("--flops", type=float, default=0.5, help="share of the MACs that may stay")


def trained_digits(*, epochs: int = 5) -> Subject:
    """A small CNN, trained here on scikit-learn's digits: it shows in seconds that all runs."""
    data = digits()
    model = build_model("digits_cnn", seed=0)
    fit_(model, data.train, TrainingSettings(epochs=epochs, precision="float32"), seed=0)
    are_original = torch.ones(len(data.test), dtype=torch.bool)
    return Subject(
        name="digits_cnn", model=model, train=data.train, test=data.test, is_original=are_original
    )


def _are_original(path: Path, part: str, count: int) -> Tensor:
    """Which images of the training or test data are not re-encoded; all where nothing says so."""
    with np.load(path) as file:
        if f"{part}_lossless" in file.files:
            return torch.from_numpy(file[f"{part}_lossless"])
    return torch.ones(count, dtype=torch.bool)
