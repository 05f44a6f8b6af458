"""A pruned network that is evaluated on as many validation samples as a search wants to spend."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from amc_env.batches import Batch, count, first, joined
from amc_env.evaluation import Evaluator
from amc_env.memory import Memory
from amc_env.repair.pruner import Pruned

# Means over samples are summed in other orders, so a bound may be off by some roundings of float32.
_ROUNDING = 1e-6
_PHASES = ("select", "compact", "repair", "evaluate")
_OUTCOME, _BOUND = "outcome", "bound"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Reward, accuracy and cost of the network at the end of an episode.

    Attributes:
        reward: What the episode is paid.
        parts: The rewards that a weighted sum is made of, by name; empty for any other reward.
        accuracy: The task's metric on the validation samples that were evaluated; of a
            classification the top-1 accuracy.
        flops: Multiply-accumulates of the compact network for one sample.
        params: Parameters of the compact network.
        samples: How many validation samples were evaluated, counted from the first.
    """

    reward: float
    parts: Mapping[str, float]
    accuracy: float
    flops: int
    params: int
    samples: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """What a network is worth, of which there are the outputs of the first samples.

    Attributes:
        pay: The outcome on these samples.
        bound: The greatest reward that is still possible on all samples.
    """

    pay: Callable[[nn.Module, Batch], Outcome]
    bound: Callable[[nn.Module, Batch], float]


class Trial:
    """One choice of channels, evaluated on the first validation samples and on more when asked.

    The network is made at the first evaluation, and no sample is run twice. Samples run in whole
    batches, so that the outcome on all of them is that of an episode to the last bit.

    Args:
        counts: How many channels each group keeps.
        prune: Makes the compact, repaired network.
        judge: Says what the network is worth.
        evaluator: Runs networks on the validation split.
        known: Outcomes by number of samples. Those that the trial finds are added.
        memory: Is asked before anything is computed.

    Attributes:
        counts: How many channels each group keeps.
        seconds: Duration of each phase until now.
        samples: How many samples have been evaluated.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        *,
        prune: Callable[[], Pruned],
        judge: Judge,
        evaluator: Evaluator,
        known: dict[int, Outcome],
        memory: Memory,
    ) -> None:
        self.counts = dict(counts)
        self.seconds = dict.fromkeys(_PHASES, 0.0)
        self._prune = prune
        self.samples = 0
        self._judge = judge
        self._evaluator = evaluator
        self._known = known
        self._memory = memory
        self._compact: nn.Module | None = None
        self._outputs: list[Batch] = []

    @torch.no_grad()
    def outcome(self, samples: int | None = None) -> Outcome:
        """The outcome on the first ``samples`` validation samples in whole batches, or on all.

        A reward that reads no outputs costs the same for any number of samples.

        Raises:
            ValueError: ``samples`` is less than 1, or the reward is no finite number.
        """
        size = self._all if samples is None else self._evaluator.whole_batches(samples)
        if size not in self._known:
            self._known[size] = self._paid(size)
        return self._known[size]

    @torch.no_grad()
    def race(self, floor: float) -> Outcome:
        """The outcome on all samples, or on the first ones once it cannot reach ``floor`` any more.

        In the second case the outcome's ``samples`` are fewer than all, and its reward is the
        greatest that all of them could still have given, which is less than ``floor``.
        """
        size = self._evaluator.whole_batches(max(1, self.samples))
        while size < self._all and self._all not in self._known:
            bound = self._bounded(size)
            if bound < floor - _ROUNDING * max(1.0, abs(floor)):
                return replace(self._paid(size), reward=bound)
            size = self._evaluator.whole_batches(size + 1)
        return self.outcome()

    @property
    def _all(self) -> int:
        return len(self._evaluator.split)

    def _paid(self, samples: int) -> Outcome:
        pay = self._judge.pay
        return Outcome(**self._asked(_OUTCOME, samples, lambda *made: asdict(pay(*made))))

    def _bounded(self, samples: int) -> float:
        bound: float = self._asked(_BOUND, samples, self._judge.bound)
        return bound

    def _asked(self, what: str, samples: int, judge: Callable[[nn.Module, Batch], Any]) -> Any:
        """What ``judge`` says of the first samples, or what it said according to the memory."""
        answer = self._memory(_question(what, samples), partial(self._evaluated, judge, samples))
        self.samples = max(self.samples, samples)
        self.seconds = dict(answer["seconds"])
        return answer["said"]

    def _evaluated(
        self, judge: Callable[[nn.Module, Batch], Any], samples: int
    ) -> Mapping[str, Any]:
        """What ``judge`` says of the network on the first samples, with the phases' durations."""
        compact = self._made()
        started = time.perf_counter()
        # Fewer samples than were evaluated have been run where a memory knew what came of them.
        run = sum(count(outputs) for outputs in self._outputs)
        if run < samples:
            self._outputs.append(self._evaluator.part(run, samples).outputs(compact))
        said = judge(compact, first(joined(self._outputs), samples))
        self.seconds["evaluate"] += time.perf_counter() - started
        return {"said": said, "seconds": self.seconds}

    def _made(self) -> nn.Module:
        if self._compact is None:
            pruned = self._prune()
            self._compact = pruned.model
            self.seconds |= pruned.seconds
        return self._compact


def first_question(
    evaluator: Evaluator,
    *,
    samples: int | None,
    floor: float | None,
    seen: int,
    known: Mapping[int, Outcome],
) -> str | None:
    """What a trial asks its memory for first; None where it asks for nothing.

    Args:
        evaluator: Runs networks on the validation split.
        samples: How many samples its outcome is asked for; all if None.
        floor: The reward that a race is about; None if it is no race.
        seen: How many samples it has been evaluated on before.
        known: The outcomes that it knows, by number of samples.
    """
    total = len(evaluator.split)
    size = total if samples is None else evaluator.whole_batches(samples)
    if floor is None or total in known:
        return None if size in known else _question(_OUTCOME, size)
    size = evaluator.whole_batches(max(1, seen))
    return _question(_BOUND if size < total else _OUTCOME, size)


def _question(what: str, samples: int) -> str:
    return f"{what} on {samples}"
