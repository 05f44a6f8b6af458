"""The steps of a training: batches, loss, gradients, and the schedule of the learning rate."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

from amc_env.augmentation import augmented
from amc_env.batches import Batch, call, count, first_tensor, mapped, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.data import Source
from amc_env.folding import folded, folds_of
from amc_env.precision import Format, own_randomness
from amc_env.tasks import Task
from amc_env.training.processes import own_generator, processes, rank
from amc_env.training.settings import TrainingSettings

LabelledBatch = tuple[Batch, Batch | None]


class Trainer:
    """Takes the steps of a training."""

    def __init__(
        self,
        model: nn.Module,
        split: Source,
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
        self._model = self._network = model
        self._settings = settings
        self._task = task.smoothed(settings.smoothing)
        self._format = Format(
            precision="bfloat16" if settings.precision == "bfloat16" else "float32"
        )
        self._teacher = None
        if settings.distil and teacher is not None:
            self._teacher = _ready(teacher, split.first(2))
        steps, in_epoch = settings.steps(len(split)), settings.in_epoch(len(split))
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate * min(1.0, in_epoch / steps / settings.whole),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
        total = max(1, settings.epochs * steps)
        self._schedules = _schedules(self._optimizer, settings, steps=total)

    def join_(self, few: Batch) -> None:
        """Take all further steps together with the other processes, where there are any.

        Args:
            few: Samples that show which parameters are used.
        """
        if processes() > 1:
            is_partial = _has_unused_parameters(self._model, self._task, few)
            self._network = DistributedDataParallel(self._model, find_unused_parameters=is_partial)

    def step_(self, batches: Iterator[LabelledBatch], *, samples: int) -> float:
        """Take a step on so many samples, of which this process has its batches; their loss."""
        self._optimizer.zero_grad()
        total = 0.0
        for number in range(self._settings.accumulate):
            inputs, labels = next(batches)
            # Processes take the mean of their gradients, and batches need not be of equal size.
            share = count(inputs) * processes() / samples
            with self._summing(is_last=number == self._settings.accumulate - 1):
                loss = self.loss(inputs, labels) * share
                loss.backward()
            total += float(loss.detach())
        if self._settings.clip is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)
        self._optimizer.step()
        for schedule in self._schedules:
            schedule.step()
        return total

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
            outputs = self._outputs(self._network, inputs)
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

    def _summing(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Where gradients are summed up; processes exchange them with the last batch of a step."""
        if is_last or not isinstance(self._network, DistributedDataParallel):
            return nullcontext()
        return self._network.no_sync()

    def _outputs(self, model: nn.Module, inputs: Batch) -> Batch:
        return mapped(Tensor.float, self._task.tensors(call(model, inputs)))


def _has_unused_parameters(model: nn.Module, task: Task, few: Batch) -> bool:
    """Whether outputs that count do not depend on all parameters, as with auxiliary heads."""
    twin = copy.deepcopy(model).train()
    with own_randomness(first_tensor(few).device):
        outputs = tensors_in(task.tensors(call(twin, few)))
        torch.stack([x.float().sum() for x in outputs]).sum().backward()
    return any(p.grad is None for p in twin.parameters() if p.requires_grad)


def _check_fits(task: Task, settings: TrainingSettings, split: Source) -> None:
    """Refuse labels that are none of the task, and to move images without what belongs to them."""
    reads_labels = settings.distil < 1
    if reads_labels:
        task.check_labels(split.labels, samples=len(split))
    parts = settings.accumulate * processes()
    if (samples := settings.in_epoch(len(split))) < parts:
        raise ValueError(
            f"a step sums up {parts} batches, but an epoch has {samples} samples; give more, or a "
            "smaller accumulate"
        )
    is_whole = isinstance(split.first(1), Tensor) and (task.has_classes or not reads_labels)
    if (settings.shift or settings.flip) and not is_whole:
        raise ValueError(
            f"shift is {settings.shift} and flip is {settings.flip}, which move images, but not "
            f"the labels of the task {task.name} or further inputs; give shift=0 and flip=false"
        )


def _ready(teacher: nn.Module, batch: Batch) -> nn.Module:
    with evaluating(teacher):
        return folded(teacher, folds_of(teacher, batch))


def epoch_batches(
    split: Source,
    settings: TrainingSettings,
    generator: torch.Generator,
    *,
    epoch: int,
    is_shared: bool,
) -> tuple[list[int], Iterator[LabelledBatch]]:
    """How many samples each step of an epoch has, and the epoch's batches, in a random order.

    Images are augmented.

    Args:
        split: The samples.
        settings: How they are trained on.
        generator: Draws the order and the augmentation.
        epoch: The number of the epoch, from 0.
        is_shared: Whether processes that train together share each step, so that the batches are
            only those of this one.
    """
    order = _order(len(split), settings.in_epoch(len(split)), generator, epoch=epoch)
    steps = order.tensor_split(settings.steps(len(split)))
    dealt = [chosen.tensor_split(settings.accumulate * processes()) for chosen in steps]
    own = slice(rank(), None, processes()) if is_shared else slice(None)
    chosen = [part for parts in dealt for part in parts[own] if len(part)]
    return [len(step) for step in steps], _read(split, chosen, settings, generator)


def _order(samples: int, in_epoch: int, generator: torch.Generator, *, epoch: int) -> Tensor:
    """Which samples an epoch has; a short one goes on where the one before has ended."""
    if in_epoch == samples:
        return torch.randperm(samples, generator=generator)
    first = epoch * in_epoch
    rounds = range(first // samples, (first + in_epoch - 1) // samples + 1)
    orders = [_round(samples, generator.initial_seed(), number) for number in rounds]
    return torch.cat(orders)[first - rounds.start * samples :][:in_epoch]


def _round(samples: int, seed: int, number: int) -> Tensor:
    """All samples in an order of their own for each time that they come."""
    seeds = torch.randint(2**31, (number + 1,), generator=torch.Generator().manual_seed(seed))
    return torch.randperm(samples, generator=torch.Generator().manual_seed(int(seeds[-1])))


def _read(
    split: Source,
    chosen: Sequence[Tensor],
    settings: TrainingSettings,
    generator: torch.Generator,
) -> Iterator[LabelledBatch]:
    own = own_generator(generator)
    move = partial(augmented, generator=own, shift=settings.shift, flip=settings.flip)
    for inputs, labels in split.batches(chosen, generator):
        yield mapped(move, inputs), labels


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
