"""Training and fine-tuning on samples that are held in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_env.data import Split
from amc_env.devices import has_bfloat16_units


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the samples; 0 leaves the network as it is.
        learning_rate: At the start; it falls to 0 along a cosine.
        batch: Samples of a step.
        momentum: Of stochastic gradient descent, with Nesterov's step.
        weight_decay: Of all weights.
        smoothing: Of the labels.
        shift: Images are moved by up to so many pixels each way; 0 for none.
        flip: Whether half of the images are mirrored.
    """

    epochs: int = 10
    learning_rate: float = 0.05
    batch: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.learning_rate <= 0 or self.shift < 0:
            raise ValueError(
                f"epochs is {self.epochs}, batch {self.batch}, learning_rate "
                f"{self.learning_rate} and shift {self.shift}; give at least 0, 1, more than 0 "
                "and at least 0"
            )


def fit_(
    model: nn.Module,
    split: Split,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``model`` on ``split`` and leave it in evaluation mode.

    ``on_epoch`` is told the epoch, from 1, and its mean loss. The same seed gives the same weights
    on one thread.

    Raises:
        ValueError: The loss is no number; the learning rate may be too great.
    """
    generator = torch.Generator().manual_seed(seed)
    # Two samples at least, without which batch norms have no variance.
    steps = max(1, len(split) // settings.batch)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, settings.epochs * steps)
    )
    is_fast = has_bfloat16_units(split.inputs.device)
    try:
        for epoch in range(settings.epochs):
            model.train()
            order = torch.randperm(len(split), generator=generator).to(split.labels.device)
            total = 0.0
            for chosen in order.tensor_split(steps):
                images = _augmented(split.inputs[chosen], settings, generator)
                with torch.autocast(images.device.type, torch.bfloat16, enabled=is_fast):
                    scores = model(images)
                loss = F.cross_entropy(
                    scores.float(), split.labels[chosen], label_smoothing=settings.smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) / steps
            if total != total:
                raise ValueError(
                    f"the loss of epoch {epoch + 1} is {total}; try a smaller learning_rate than "
                    f"{settings.learning_rate}"
                )
            if on_epoch:
                on_epoch(epoch + 1, total)
    finally:
        model.eval()


def _augmented(images: Tensor, settings: TrainingSettings, generator: torch.Generator) -> Tensor:
    if settings.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    if settings.shift:
        # One shift for a batch; there are many batches.
        down, right = (
            int(torch.randint(-settings.shift, settings.shift + 1, (), generator=generator))
            for _ in range(2)
        )
        height, width = images.shape[-2:]
        padded = F.pad(images, [settings.shift] * 4)
        top, left = settings.shift + down, settings.shift + right
        images = padded[..., top : top + height, left : left + width]
    return images
