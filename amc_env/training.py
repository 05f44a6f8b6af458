"""Training and fine-tuning on samples that are held in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler

from amc_env.data import Split
from amc_env.data.splits import draw
from amc_env.devices import has_bfloat16_units

# Batches are not made smaller than this: batch norms need several samples to estimate a variance.
_SMALLEST_BATCH = 8

# Images held out of fine-tuning: a tenth, but of few images at least so many, or a quarter.
_HELD_OUT_AT_LEAST = 250


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the samples; 0 leaves the network as it is.
        learning_rate: The highest learning rate; it falls to 0 along a cosine.
        warmup: Share of all steps over which the learning rate first rises linearly; 0 for none.
        batch: Samples in a step.
        min_steps: Fewest steps in an epoch. Where there are too few samples for them, batches
            are made smaller, down to 8 samples.
        clip: Largest norm of the gradient of a step; longer gradients are scaled down to it. None
            for no limit.
        momentum: Of stochastic gradient descent, with Nesterov's step.
        weight_decay: Of all weights.
        smoothing: Of the labels.
        shift: Images are moved by at most this many pixels in each direction; 0 for none.
        flip: Whether a random half of the images is mirrored.
    """

    epochs: int = 10
    learning_rate: float = 0.05
    warmup: float = 0.0
    batch: int = 64
    min_steps: int = 1
    clip: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        laws = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "positive and finite"),
            "warmup": (0 <= self.warmup <= 1, "from 0 to 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "min_steps": (self.min_steps >= 1, "at least 1"),
            "clip": (self.clip is None or self.clip > 0, "positive, or none"),
            "shift": (self.shift >= 0, "at least 0"),
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


def fit_(
    model: nn.Module,
    split: Split,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``model`` on ``split`` and leave it in evaluation mode.

    ``on_epoch`` receives the number of each finished epoch, from 1, and its mean loss. On one
    thread the same seed gives the same weights.

    Raises:
        ValueError: The loss is not a number; the learning rate may be too high.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = settings.steps(len(split))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
    schedules = _schedules(optimizer, settings, steps=max(1, settings.epochs * steps))
    try:
        for epoch in range(settings.epochs):
            model.train()
            order = torch.randperm(len(split), generator=generator).to(split.labels.device)
            total = 0.0
            for chosen in order.tensor_split(steps):
                images = augmented(split.inputs[chosen], settings, generator)
                loss = _loss(model, images, split.labels[chosen], settings)
                optimizer.zero_grad()
                loss.backward()
                if settings.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimizer.step()
                for schedule in schedules:
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


def hold_out(
    train: Split, *, calibration: int, validation: int, selection: int, seed: int
) -> tuple[Split, Split]:
    """Training data in two parts: images to fine-tune on, and held-out images to judge by.

    The held-out images are those that ``PruningData.of_training`` draws with the same arguments for
    selection, and after these for validation, so neither the repair, which reads the calibration
    split, nor the fine-tuning is fitted to them. They are a tenth of the training data, of small
    data sets at least 250 images or a quarter, and never more than both splits.

    Raises:
        ValueError: All training data is needed for calibration.
    """
    if len(train) <= calibration:
        raise ValueError(
            f"of {len(train)} training samples, {calibration} are for calibration, so none can be "
            "held out from fine-tuning; give more samples, or a smaller calibration split"
        )
    drawn = draw(
        train.labels,
        calibration=calibration,
        validation=validation,
        selection=selection,
        seed=seed,
    )
    share = max(len(train) // 10, min(len(train) // 4, _HELD_OUT_AT_LEAST), 1)
    held = torch.cat([drawn["selection"], drawn["validation"]])[:share]
    is_fitted = torch.ones(len(train), dtype=torch.bool)
    is_fitted[held] = False
    return train.take(is_fitted.nonzero().flatten()), train.take(held)


def augmented(images: Tensor, settings: TrainingSettings, generator: torch.Generator) -> Tensor:
    """A batch of images (samples, channels, height, width), mirrored and shifted at random.

    Every image is mirrored or not by itself; the shift is one for the whole batch, and zeros
    come in from the border.
    """
    if settings.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    if settings.shift:
        # A shift for every image would need a gather; over many batches one for each is enough.
        down, right = (
            int(torch.randint(-settings.shift, settings.shift + 1, (), generator=generator))
            for _ in range(2)
        )
        height, width = images.shape[-2:]
        padded = F.pad(images, [settings.shift] * 4)
        top, left = settings.shift + down, settings.shift + right
        images = padded[..., top : top + height, left : left + width]
    return images


def _schedules(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, *, steps: int
) -> list[LRScheduler]:
    """Schedules whose factors multiply: the warm-up's, if there is one, and the cosine's."""
    rising = ceil(settings.warmup * steps)
    cosine = CosineAnnealingLR(optimizer, steps)
    if not rising:
        return [cosine]
    return [cosine, LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)]


def _loss(model: nn.Module, images: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    is_fast = has_bfloat16_units(images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=is_fast):
        scores = model(images)
    return F.cross_entropy(scores.float(), labels, label_smoothing=settings.smoothing)
