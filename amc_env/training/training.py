"""Training and fine-tuning, on one process or on several that ``torchrun`` has started."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, count, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.data import Source
from amc_env.memory import Memory, forgetful
from amc_env.models import copy_weights_
from amc_env.precision import measure, own_randomness, worthwhile_seconds
from amc_env.randomness import random_states, restore_random_states_
from amc_env.tasks import Classification, Task
from amc_env.training.processes import mean_over_processes
from amc_env.training.settings import TrainingSettings
from amc_env.training.trainer import Trainer, epoch_batches

# How long a run may be that chooses the precision, in seconds for each step of the training.
_RUN_PER_STEP = 0.002


def fit_(  # noqa: PLR0913 (all but three have defaults)
    model: nn.Module,
    split: Source,
    settings: TrainingSettings,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``model`` on ``split`` and leave it in evaluation mode.

    ``task`` says what the loss is; classification by default. ``teacher`` gives the outputs that
    ``distil`` compares with; it is not changed.
    ``on_epoch`` receives the number of each finished epoch, from 1, and its mean loss. On one
    thread, in a stated precision, the same seed gives the same weights.

    Raises:
        DivergedError: The loss is not a number.
        ValueError: There is no teacher to distil from, or the settings do not fit the task.
    """
    Training(model, split, settings, task=task, teacher=teacher, seed=seed).run_(on_epoch)


class DivergedError(ValueError):
    """The loss of a training is not a number; the learning rate may be too high."""


class Training:
    """A training whose state after any epoch can be saved, and taken up again by another one.

    Args:
        model: The network to train.
        split: The samples.
        settings: How to train.
        task: What the network is trained for; classification by default.
        teacher: Gives the outputs that ``distil`` compares with; it is not changed.
        seed: Seed of the order and of the augmentation of the samples.
        memory: Is asked for the precision before one is measured.

    Attributes:
        model: The network.
        split: The samples.
        settings: How it is trained, in a stated precision.
        task: What it is trained for.
        teacher: The network that it learns from, if there is one.
        epoch: How many epochs are finished.

    Raises:
        ValueError: There is no teacher to distil from.
    """

    def __init__(  # noqa: PLR0913 (a memory is no setting, and all but three have defaults)
        self,
        model: nn.Module,
        split: Source,
        settings: TrainingSettings,
        *,
        task: Task | None = None,
        teacher: nn.Module | None = None,
        seed: int = 0,
        memory: Memory = forgetful,
    ) -> None:
        self.model, self.split, self.teacher = model, split, teacher
        self.task = task or Classification()
        self.epoch = 0
        precision = memory(
            "precision",
            lambda: with_measured_precision(settings, model, split, task=self.task).precision,
        )
        self.settings = replace(settings, precision=precision)
        self._generator = torch.Generator().manual_seed(seed)
        self._trainer = Trainer(model, split, self.settings, self.task, teacher)

    @property
    def is_finished(self) -> bool:
        """Whether there is no epoch left."""
        return self.epoch >= self.settings.epochs

    def run_(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train for the epochs that are left, and leave the network in evaluation mode.

        Args:
            on_epoch: Receives the number of each finished epoch, from 1, and its mean loss.

        Raises:
            DivergedError: The loss is not a number.
        """
        self._trainer.join_(self.split.first(2))
        try:
            while not self.is_finished:
                loss = self._epoch_()
                self.epoch += 1
                if on_epoch:
                    on_epoch(self.epoch, loss)
        finally:
            self.model.eval()

    def state(self) -> dict[str, Any]:
        """All that further epochs depend on, global random generators included.

        After the last epoch, what only further epochs would need is left out.
        """
        left = {} if self.is_finished else self._trainer.state()
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "generator": self._generator.get_state(),
            "random": random_states(),
            **left,
        }

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a training with the same arguments."""
        copy_weights_(self.model, state["model"])
        self.epoch = state["epoch"]
        self._generator.set_state(state["generator"])
        if not self.is_finished:
            self._trainer.restore_(state)
        restore_random_states_(state["random"])

    def _epoch_(self) -> float:
        """Train for one epoch, and return its mean loss."""
        self.model.train()
        sizes, batches = epoch_batches(
            self.split, self.settings, self._generator, epoch=self.epoch, is_shared=True
        )
        losses = [self._trainer.step_(batches, samples=size) for size in sizes]
        mean = torch.tensor(sum(losses) / len(losses), dtype=torch.float64)
        loss = float(mean_over_processes(mean))
        if loss != loss:
            raise DivergedError(
                f"the loss of epoch {self.epoch + 1} is {loss}; try a smaller learning_rate than "
                f"{self.settings.learning_rate}"
            )
        return loss


def with_measured_precision(
    settings: TrainingSettings, model: nn.Module, split: Source, *, task: Task | None = None
) -> TrainingSettings:
    """The settings with a stated precision: where it is ``auto``, the one that is faster.

    Some steps are timed, without changing ``model``: the more, the longer the training.
    """
    if settings.precision != "auto" or not settings.epochs:
        return settings
    task, twin = task or Classification(), copy.deepcopy(model).train()

    def step(inputs: Batch) -> Tensor:
        outputs = task.tensors(call(twin, inputs))
        each = [x.float() for x in tensors_in(outputs)]
        # How long a step takes hardly depends on the loss, and there may be no labels.
        torch.stack([x.square().mean() for x in each]).sum().backward()
        return torch.cat([x.flatten(1) for x in each], 1)

    steps = settings.epochs * settings.steps(len(split))
    seconds = worthwhile_seconds(steps * _RUN_PER_STEP)
    choice = measure(step, split.first(settings.batch), by_scores=True, seconds=seconds)
    return replace(settings, precision=choice.format.precision)


def expected_seconds(
    model: nn.Module,
    split: Source,
    settings: TrainingSettings,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
) -> float:
    """How long ``fit_`` will take, from the time of one step of a copy of the network.

    Raises:
        ValueError: As ``fit_`` raises it.
    """
    if not settings.epochs:
        return 0.0
    with own_randomness(split.device):
        twin = copy.deepcopy(model).train()
        trainer = Trainer(twin, split, settings, task or Classification(), teacher)
        generator = torch.Generator().manual_seed(0)
        sizes, batches = epoch_batches(split, settings, generator, epoch=0, is_shared=True)
        # A step that is taken twice, as the first one also allocates memory and picks kernels.
        step = [*islice(batches, settings.accumulate)]
        trainer.step_(iter(step), samples=sizes[0])
        started = time.perf_counter()
        trainer.step_(iter(step), samples=sizes[0])
    return (time.perf_counter() - started) * settings.epochs * settings.steps(len(split))


def held_out_loss(
    model: nn.Module,
    split: Source,
    settings: TrainingSettings,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> float:
    """Mean loss of a network on all samples, which it was not trained on, augmented as in training.

    The network is in evaluation mode meanwhile, and is not changed.

    Raises:
        ValueError: As ``fit_`` raises it.
    """
    settings = replace(settings, samples=0)
    trainer = Trainer(model, split, settings, task or Classification(), teacher)
    generator = torch.Generator().manual_seed(seed)
    _, batches = epoch_batches(split, settings, generator, epoch=0, is_shared=False)
    with evaluating(model):
        losses = [float(trainer.loss(inputs, labels)) * count(inputs) for inputs, labels in batches]
    return sum(losses) / len(split)
