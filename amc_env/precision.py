"""Numeric format and memory layout in which a network runs fastest, measured on its own data."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from amc_env.batches import B, Batch, count, first, first_tensor, mapped

_LOG = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bfloat16"]
Run = Callable[[Batch], Tensor]

# A format has to save this share of the time and so many seconds of a run, so that the noise of a
# clock decides nothing: least of all for tiny networks, where there is nothing to gain.
_GAIN, _SAVED_SECONDS = 0.1, 1e-3
# Largest share of the samples that a format may assign to another class.
_CHANGED = 0.02
# Largest relative difference of outputs where these are compared. A network that is not trained yet
# has no classes to agree on, and others have none at all.
_DIFFERENCE = 0.1
# A format that takes this many times as long on two samples is not tried on more: without units for
# it, bfloat16 can take forty times as long as float32.
_HOPELESS = 3.0
_TRIAL_SAMPLES = 2
# The samples of a measured run are so many that it takes about this long; where a run is worth more
# time, it may take as long as the second.
_RUN_SECONDS, _LONGEST_RUN = 0.1, 1.0
_REPEATS, _FEWEST_REPEATS = 5, 2


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a network is run.

    Attributes:
        precision: ``bfloat16`` runs convolutions and linear layers under autocast.
        channels_last: Whether images lie in memory with their channels last.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True

    @override
    def __str__(self) -> str:
        return f"{self.precision} with channels {'last' if self.channels_last else 'first'}"

    def arrange(self, inputs: B) -> B:
        """Images in the layout of this format; inputs that are no images are left as they are."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return mapped(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x, inputs)

    def computing(self, device: torch.device) -> torch.autocast:
        """A context in which networks compute in this precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A format, and the measurement that chose it.

    Attributes:
        format: The format.
        samples: Number of samples in a measured run; 0 where nothing was measured.
        seconds: Median duration of a run by format; formats that were hopelessly slow are timed on
            two samples, and the time is scaled to ``samples``.
        difference: Largest difference of class scores between the format and float32, relative to
            the largest score.
        changed: Share of the samples whose best class differs between the two.
    """

    format: Format
    samples: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    difference: float = 0.0
    changed: float = 0.0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Choice":
        """The choice that ``dataclasses.asdict`` made plain."""
        return cls(**{**plain, "format": Format(**plain["format"])})

    @override
    def __str__(self) -> str:
        if not self.seconds:
            return str(self.format)
        times = ", ".join(f"{1e3 * s:.3g} ms {name}" for name, s in self.seconds.items())
        told = f"{self.format}, measured on {self.samples} samples ({times})"
        if self.format.precision == "float32":
            return told
        return f"{told}; scores differ by {self.difference:.2g}, classes of {self.changed:.1%}"


def fixed(precision: Precision) -> Choice | None:
    """The choice where the precision is stated, with channels last; None for ``auto``."""
    return None if precision == "auto" else Choice(format=Format(precision=precision))


def worthwhile_seconds(seconds: float) -> float:
    """The nearest to ``seconds`` that a measured run should take."""
    return min(_LONGEST_RUN, max(_RUN_SECONDS, seconds))


def measure(
    run: Run,
    batch: Batch,
    *,
    by_scores: bool = False,
    seconds: float = _RUN_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """The fastest format on this batch whose results agree with those of float32.

    float32 with channels last is the standard. Another format is chosen only if it is clearly
    faster and, on the whole batch, gives the same classes but for 2 % of the samples; where outputs
    are no class scores, they have to be nearly the same. The measurement takes about a second, or
    some runs on two samples where these take longer; it takes several where ``seconds`` is 1.

    Args:
        run: Runs the network on samples and returns class scores or other outputs (samples, ...).
        batch: Samples, on the device of the network.
        by_scores: Whether outputs have to be close, instead of the classes the same: for a step of
            training, and for outputs that are no class scores.
        seconds: About how long a measured run takes, where the batch has enough samples: few
            samples say little about many, since every layer costs something whatever it runs on.
            Longer runs are repeated less.
        clock: Gives the time in seconds.
    """
    with own_randomness(first_tensor(batch).device):
        samples, times = _times(run, batch, clock, seconds)
        standard = next(iter(times))
        choice = Choice(
            format=standard, samples=samples, seconds={str(f): s for f, s in times.items()}
        )
        for candidate in _clearly_faster(times, than=standard):
            difference, changed = _deviation(run, batch, candidate, standard)
            if difference <= _DIFFERENCE if by_scores else changed <= _CHANGED:
                return replace(choice, format=candidate, difference=difference, changed=changed)
    return choice


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Draw random numbers without a trace in those that are drawn afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _scores(run: Run, batch: Batch, chosen: Format) -> Tensor:
    # Networks that draw random numbers, as dropout does, have to draw the same in every format.
    torch.manual_seed(0)
    with chosen.computing(first_tensor(batch).device):
        return run(batch).detach().float()


def _formats(batch: Batch) -> list[Format]:
    """The formats to compare, the standard first."""
    if first_tensor(batch).dim() != 4:
        return [Format(), Format(precision="bfloat16")]
    return [Format(), Format(channels_last=False), Format(precision="bfloat16")]


def _times(
    run: Run, batch: Batch, clock: Callable[[], float], seconds: float
) -> tuple[int, dict[Format, float]]:
    """Number of samples in a measured run, and its duration in seconds for each format."""
    few = first(batch, _TRIAL_SAMPLES)
    timed = partial(_medians, run, clock)
    once = timed(few, _formats(batch), repeats=1)
    quickest = min(once, key=once.__getitem__)
    samples, took = count(few), once[quickest]
    while (more := _more(samples, took, seconds, limit=count(batch))) > samples:
        samples = more
        took = timed(first(batch, samples), [quickest], repeats=1)[quickest]
    hopeful = [f for f in once if once[f] <= _HOPELESS * once[quickest]]
    scaled = {f: once[f] * samples / count(few) for f in once}
    repeats = max(_FEWEST_REPEATS, round(_REPEATS * _RUN_SECONDS / seconds))
    return samples, scaled | timed(first(batch, samples), hopeful, repeats=repeats)


def _more(samples: int, took: float, seconds: float, *, limit: int) -> int:
    """More samples, for a run of about so many seconds; as many as before if that is near."""
    fitting = round(samples * seconds / took) if took else limit
    more = min(limit, 4 * samples, fitting)
    return more if more == limit or more > 1.2 * samples else samples


def _medians(
    run: Run,
    clock: Callable[[], float],
    batch: Batch,
    formats: Sequence[Format],
    *,
    repeats: int,
) -> dict[Format, float]:
    """Median duration in each format; they take turns, so that other load slows all alike.

    A format in which the device or the network cannot compute is left out.
    """
    times: dict[Format, list[float]] = {each: [] for each in formats}
    arranged = {each: each.arrange(batch) for each in formats}
    # The first run of each also allocates memory and picks kernels; it is not counted.
    for turn in range(repeats + 1):
        for each in [*times]:
            started = clock()
            try:
                # A device computes on while Python goes ahead; reading a number waits for it.
                float(_scores(run, arranged[each], each).flatten()[0])
            # Of a missing kernel, or of layers that do not take the bfloat16 that others give.
            except RuntimeError as error:
                if each == formats[0]:
                    raise
                _LOG.info("networks are not run in %s: %s", each, str(error).partition("\n")[0])
                del times[each]
                continue
            if turn:
                times[each].append(clock() - started)
    return {each: statistics.median(mine) for each, mine in times.items()}


def _clearly_faster(seconds: Mapping[Format, float], *, than: Format) -> list[Format]:
    least = max(_GAIN * seconds[than], _SAVED_SECONDS)
    quick = [f for f in seconds if seconds[than] - seconds[f] > least]
    return sorted(quick, key=seconds.__getitem__)


def _deviation(run: Run, batch: Batch, candidate: Format, standard: Format) -> tuple[float, float]:
    """Relative difference of scores between formats, and share of samples of another class."""
    expected = _scores(run, standard.arrange(batch), standard)
    found = _scores(run, candidate.arrange(batch), candidate)
    scale = float(expected.abs().max()) or 1.0
    changed = (expected.flatten(1).argmax(1) != found.flatten(1).argmax(1)).float().mean()
    return float((expected - found).abs().max()) / scale, float(changed)
