"""How a network is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from amc_env.precision import Precision
from amc_env.training.processes import processes

# Batches are not made smaller than this: batch norms need several samples to estimate a variance.
_SMALLEST_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the samples; 0 leaves the network as it is.
        samples: Samples of an epoch; all come once before any comes again. 0 for all, as where
            there are no more.
        learning_rate: The highest learning rate, for steps of whole batches; it falls to 0
            along a cosine. Where batches are made smaller, it is made smaller in proportion (Goyal
            et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
        milestones: Numbers of epochs, ascending, after each of which the learning rate is divided
            by 10, in place of the cosine; none for the cosine.
        warmup: Share of all steps over which the learning rate first rises linearly; 0 for none.
        batch: Samples that run together: all of a step, unless ``accumulate`` or several processes
            multiply them.
        accumulate: How many batches a step sums up the gradients of. It takes the memory of one,
            and batch norms see one at a time.
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
    samples: int = 0
    learning_rate: float = 0.05
    milestones: Sequence[int] = ()
    warmup: float = 0.0
    batch: int = 64
    accumulate: int = 1
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
            "samples": (self.samples >= 0, "at least 0"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "positive and finite"),
            "milestones": (
                list(self.milestones) == sorted({m for m in self.milestones if m >= 1}),
                "numbers of epochs in ascending order, as [40, 70]",
            ),
            "warmup": (0 <= self.warmup <= 1, "from 0 to 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "accumulate": (self.accumulate >= 1, "at least 1"),
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

    def in_epoch(self, samples: int) -> int:
        """How many of this many samples an epoch has."""
        return min(self.samples or samples, samples)

    def steps(self, samples: int) -> int:
        """How many steps an epoch has where there are this many samples."""
        samples = self.in_epoch(samples)
        # The last samples are dealt out to the other batches: a batch norm finds no variance in a
        # batch of a single image.
        by_size = samples // self.whole
        smallest = _SMALLEST_BATCH * self.whole // self.batch
        return max(1, by_size, min(self.min_steps, samples // smallest))

    @property
    def whole(self) -> int:
        """Samples of a whole step: the batches of all processes that train together."""
        return self.batch * self.accumulate * processes()
