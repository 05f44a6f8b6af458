"""Training and fine-tuning on samples that are held in memory."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

from amc_env.augmentation import augmented
from amc_env.batches import Batch, call, count, first, first_tensor, mapped, taken, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.data import Split
from amc_env.folding import folded, folds_of
from amc_env.memory import Memory, forgetful
from amc_env.precision import Format, Precision, measure, own_randomness
from amc_env.randomness import random_states, restore_random_states_
from amc_env.tasks import Classification, Task

# Batches are not made smaller than this: batch norms need several samples to estimate a variance.
_SMALLEST_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the samples; 0 leaves the network as it is.
        learning_rate: The highest learning rate, for steps of ``batch`` samples; it falls to 0
            along a cosine. Where batches are made smaller, it is made smaller in proportion (Goyal
            et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
        milestones: Numbers of epochs, ascending, after each of which the learning rate is divided
            by 10, in place of the cosine; none for the cosine.
        warmup: Share of all steps over which the learning rate first rises linearly; 0 for none.
        batch: Samples in a step.
        min_steps: Fewest steps in an epoch. Where there are too few samples for them, batches
            are made smaller, down to 8 samples.
        clip: Largest norm of the gradient of a step; longer gradients are scaled down to it. None
            for no limit.
        momentum: Of stochastic gradient descent, with Nesterov's step.
        weight_decay: Of all weights.
        smoothing: Share of a label's probability that is spread over all classes.
        distil: Share of the loss that compares with the outputs of a teacher, such as class scores,
            instead of the labels; 0 for none, and 1 reads no label.
        temperature: Class scores of both are divided by this before they are compared.
        shift: Every image is moved by at most this many pixels in each direction; 0 for none.
        flip: Whether a random half of the images is mirrored.
        precision: ``float32``, ``bfloat16``, or ``auto``, which measures whether a step is clearly
            faster in bfloat16. As a clock decides, ``float32`` gives equal runs, ``auto`` need not.
    """

    epochs: int = 10
    learning_rate: float = 0.05
    milestones: Sequence[int] = ()
    warmup: float = 0.0
    batch: int = 64
    min_steps: int = 1
    clip: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    distil: float = 0.0
    temperature: float = 4.0
    shift: int = 0
    flip: bool = False
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        laws = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "positive and finite"),
            "milestones": (
                list(self.milestones) == sorted({m for m in self.milestones if m >= 1}),
                "numbers of epochs in ascending order, as [40, 70]",
            ),
            "warmup": (0 <= self.warmup <= 1, "from 0 to 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "min_steps": (self.min_steps >= 1, "at least 1"),
            "clip": (self.clip is None or self.clip > 0, "positive, or none"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and less than 1"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "smoothing": (0 <= self.smoothing < 1, "at least 0 and less than 1"),
            "distil": (0 <= self.distil <= 1, "from 0 to 1"),
            "temperature": (self.temperature > 0, "positive"),
            "shift": (self.shift >= 0, "at least 0"),
            "precision": (
                self.precision in get_args(Precision),
                f"one of {', '.join(get_args(Precision))}",
            ),
        }
        for name, (holds, expected) in laws.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {expected}")

    def steps(self, samples: int) -> int:
        """How many steps an epoch over this many samples has."""
        # The last samples are dealt out to the other batches: a batch norm finds no variance in a
        # batch of a single image.
        by_size = samples // self.batch
        return max(1, by_size, min(self.min_steps, samples // _SMALLEST_BATCH))


def fit_(  # noqa: PLR0913 (all but three have defaults)
    model: nn.Module,
    split: Split,
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
        split: Split,
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
        self._trainer = _Trainer(model, split, self.settings, self.task, teacher)

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
        self.model.load_state_dict(state["model"])
        self.epoch = state["epoch"]
        self._generator.set_state(state["generator"])
        if not self.is_finished:
            self._trainer.restore_(state)
        restore_random_states_(state["random"])

    def _epoch_(self) -> float:
        """Train for one epoch, and return its mean loss."""
        self.model.train()
        batches = _batches(self.split, self.settings, self._generator)
        losses = [self._trainer.step_(inputs, labels) for inputs, labels in batches]
        loss = sum(losses) / len(losses)
        if loss != loss:
            raise DivergedError(
                f"the loss of epoch {self.epoch + 1} is {loss}; try a smaller learning_rate than "
                f"{self.settings.learning_rate}"
            )
        return loss


def with_measured_precision(
    settings: TrainingSettings, model: nn.Module, split: Split, *, task: Task | None = None
) -> TrainingSettings:
    """The settings with a stated precision: where it is ``auto``, the one that is faster.

    Some steps are timed, without changing ``model``.
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

    choice = measure(step, first(split.inputs, settings.batch), by_scores=True)
    return replace(settings, precision=choice.format.precision)


def expected_seconds(
    model: nn.Module,
    split: Split,
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
        trainer = _Trainer(twin, split, settings, task or Classification(), teacher)
        batches = _batches(split, settings, torch.Generator().manual_seed(0))
        inputs, labels = next(batches)
        # The first step also allocates memory and picks kernels; it is not counted.
        trainer.step_(inputs, labels)
        started = time.perf_counter()
        trainer.step_(inputs, labels)
    return (time.perf_counter() - started) * settings.epochs * settings.steps(len(split))


def held_out_loss(
    model: nn.Module,
    split: Split,
    settings: TrainingSettings,
    *,
    task: Task | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> float:
    """Mean loss of a network on samples that it was not trained on, augmented as in training.

    The network is in evaluation mode meanwhile, and is not changed.

    Raises:
        ValueError: As ``fit_`` raises it.
    """
    trainer = _Trainer(model, split, settings, task or Classification(), teacher)
    batches = _batches(split, settings, torch.Generator().manual_seed(seed))
    with evaluating(model):
        losses = [float(trainer.loss(inputs, labels)) * count(inputs) for inputs, labels in batches]
    return sum(losses) / len(split)


class _Trainer:
    """Takes the steps of a training."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        settings: TrainingSettings,
        task: Task,
        teacher: nn.Module | None,
    ) -> None:
        _check_fits(task, settings, split)
        if settings.distil and teacher is None:
            raise ValueError(
                f"distil is {settings.distil}, but there is no teacher whose class scores could "
                "be learnt; give distil=0"
            )
        self._model, self._settings = model, settings
        self._task = task.smoothed(settings.smoothing)
        self._format = Format(
            precision="bfloat16" if settings.precision == "bfloat16" else "float32"
        )
        self._teacher = None
        if settings.distil and teacher is not None:
            self._teacher = _ready(teacher, first(split.inputs, 2))
        steps = settings.steps(len(split))
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate * min(1.0, len(split) / steps / settings.batch),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
        total = max(1, settings.epochs * steps)
        self._schedules = _schedules(self._optimizer, settings, steps=total)

    def step_(self, inputs: Batch, labels: Batch | None) -> float:
        """Train on a batch once, and return its loss."""
        loss = self.loss(inputs, labels)
        self._optimizer.zero_grad()
        loss.backward()
        if self._settings.clip is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)
        self._optimizer.step()
        for schedule in self._schedules:
            schedule.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """The states of the optimiser and of the schedules of its learning rate."""
        schedules = [schedule.state_dict() for schedule in self._schedules]
        return {"optimizer": self._optimizer.state_dict(), "schedules": schedules}

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Put the optimiser and its schedules where they were."""
        self._optimizer.load_state_dict(state["optimizer"])
        for schedule, its in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(its)

    def loss(self, inputs: Batch, labels: Batch | None) -> Tensor:
        """The loss of the network on a batch."""
        settings, inputs = self._settings, self._format.arrange(inputs)
        with self._format.computing(first_tensor(inputs).device):
            outputs = self._outputs(self._model, inputs)
            target = None
            if self._teacher is not None:
                with evaluating(self._teacher):
                    target = self._outputs(self._teacher, inputs)
        loss = first_tensor(outputs).new_zeros(())
        if settings.distil < 1:
            loss = loss + (1 - settings.distil) * self._task.loss(outputs, labels)
        if target is not None:
            soft = self._task.distance(outputs, target, temperature=settings.temperature)
            loss = loss + settings.distil * soft
        return loss

    def _outputs(self, model: nn.Module, inputs: Batch) -> Batch:
        return mapped(Tensor.float, self._task.tensors(call(model, inputs)))


def _check_fits(task: Task, settings: TrainingSettings, split: Split) -> None:
    """Refuse labels that are none of the task, and to move images without what belongs to them."""
    reads_labels = settings.distil < 1
    if reads_labels:
        task.check_labels(split.labels, samples=len(split))
    is_whole = isinstance(split.inputs, Tensor) and (task.has_classes or not reads_labels)
    if (settings.shift or settings.flip) and not is_whole:
        raise ValueError(
            f"shift is {settings.shift} and flip is {settings.flip}, which move images, but not "
            f"the labels of the task {task.name} or further inputs; give shift=0 and flip=false"
        )


def _ready(teacher: nn.Module, batch: Batch) -> nn.Module:
    with evaluating(teacher):
        return folded(teacher, folds_of(teacher, batch))


def _batches(
    split: Split, settings: TrainingSettings, generator: torch.Generator
) -> Iterator[tuple[Batch, Batch | None]]:
    """The inputs, images augmented, and labels of one epoch, in a random order."""
    move = partial(augmented, generator=generator, shift=settings.shift, flip=settings.flip)
    order = torch.randperm(len(split), generator=generator).to(split.device)
    for chosen in order.tensor_split(settings.steps(len(split))):
        labels = None if split.labels is None else taken(split.labels, chosen)
        yield mapped(move, taken(split.inputs, chosen)), labels


def _schedules(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, *, steps: int
) -> list[LRScheduler]:
    """Schedules whose factors multiply: the warm-up's, if there is one, and what follows it."""
    rising = ceil(settings.warmup * steps)
    falling: LRScheduler = CosineAnnealingLR(optimizer, steps)
    if settings.milestones:
        in_epoch = steps // max(1, settings.epochs)
        falling = MultiStepLR(optimizer, [in_epoch * epoch for epoch in settings.milestones])
    if not rising:
        return [falling]
    return [falling, LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)]
