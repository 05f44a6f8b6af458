"""The trials of an environment: made, gone on with, remembered, and expected ahead."""

import copy
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from amc_env.env.ahead import Ahead, Request
from amc_env.env.payment import Payment
from amc_env.env.trial import Judge, Outcome, Trial, first_question
from amc_env.env.tried import Kept, Tried
from amc_env.memory import Compute, Memory, forgetful, has
from amc_env.names import name_of
from amc_env.repair.pruner import Pruner


class Trials:
    """Makes trials, and knows the outcomes of those that were made before.

    Args:
        pruner: Makes compact networks.
        payment: Says what they are worth.
        memory: Is asked for every outcome before it is computed.
        seed: Seed of the rewards that draw random numbers.

    Attributes:
        payment: Says what networks are worth.
        ahead: Evaluates candidates before their episodes, if there is somebody to do so.
    """

    def __init__(self, pruner: Pruner, payment: Payment, *, memory: Memory, seed: int) -> None:
        self.payment = payment
        self.ahead = Ahead()
        self._pruner = pruner
        self._memory = memory
        self._tried = Tried()
        self.draw_from_(seed)

    def sharing(self, *, seed: int) -> "Trials":
        """Trials that share all outcomes with these, but no random numbers."""
        other = copy.copy(self)
        other.draw_from_(seed)
        return other

    def alone(self) -> "Trials":
        """Trials for another process, which have no outcomes and ask no memory for any."""
        return self._anew(memory=forgetful)

    def paid_by(self, payment: Payment) -> "Trials":
        """Trials of the same networks, paid otherwise; outcomes of these are not shared."""
        other = self._anew(memory=self._memory)
        other.payment, other.ahead = payment, self.ahead
        return other

    def draw_from_(self, seed: int) -> None:
        """Begin to draw random numbers anew."""
        self._seed, self._number = seed, 0

    def draw(self, key: object) -> float:
        """A uniform random number from 0 to 1 that depends on the seed and a key."""
        seed = zlib.crc32(f"{self._seed} {key}".encode())
        return float(np.random.default_rng(seed).random())

    def trial(self, counts: Mapping[str, int]) -> Trial:
        """The trial that is held for these numbers of channels, or a new one.

        Raises:
            ValueError: A group does not exist or cannot keep that many channels.
        """
        # Trials are looked up by the groups that exist, so a name that does not exist has to be
        # refused before.
        self._pruner.kept(counts)
        if not self.payment.is_repeatable:
            return self._new(counts, {})
        return self._tried.trial(self._kept(counts), partial(self._new, counts))

    def expect(
        self, candidates: Sequence[Mapping[str, int]], *, samples: int | None, floor: float | None
    ) -> None:
        """Have those candidates evaluated ahead of whose outcomes nothing is known."""
        if not self.ahead.is_on or not self.payment.is_repeatable:
            return
        requests = [self._request(counts, samples, floor) for counts in candidates]
        self.ahead.expect([request for request in requests if request])

    def remembered(self, counts: Mapping[str, int], what: str, compute: Compute) -> Any:
        """A result for these numbers of channels and the reward from memory, or else computed."""
        what = self._called(counts, what)
        return self._memory(what, partial(self.ahead, what, compute))

    def _anew(self, *, memory: Memory) -> "Trials":
        other = Trials(self._pruner, self.payment, memory=memory, seed=self._seed)
        other._number = self._number
        return other

    def _kept(self, counts: Mapping[str, int]) -> Kept:
        return tuple(counts.get(g.name, g.channels) for g in self._pruner.graph.groups)

    def _called(self, counts: Mapping[str, int], what: str) -> str:
        """What a memory calls a result for these numbers of channels."""
        return f"{name_of(self.payment.reward)}, {what}: {[*self._kept(counts)]}"

    def _request(
        self, counts: Mapping[str, int], samples: int | None, floor: float | None
    ) -> Request | None:
        """A candidate to be evaluated, or None if its outcome is known."""
        kept = self._kept(counts)
        seen, known = self._tried.seen(kept), self._tried.known(kept)
        evaluator = self.payment.benches.validation.evaluator
        first = first_question(evaluator, samples=samples, floor=floor, seen=seen, known=known)
        question = first and self._called(counts, first)
        if question is None or has(self._memory, question):
            return None
        counts = dict(counts)
        return Request(counts=counts, question=question, samples=samples, floor=floor, seen=seen)

    def _new(self, counts: Mapping[str, int], known: dict[int, Outcome]) -> Trial:
        # Counted, and not taken from a generator, because a memory may answer for some trials.
        self._number += 1
        draw = self.draw(self._number)
        memory = partial(self.remembered, counts)
        if not self.payment.is_repeatable:
            memory = partial(self._remembered_once, counts, self._number)
        return Trial(
            counts,
            prune=partial(self._pruner.prune, counts),
            judge=Judge(
                pay=partial(self.payment.of_first, counts, draw),
                bound=partial(self.payment.bound, counts, draw),
            ),
            evaluator=self.payment.benches.validation.evaluator,
            known=known,
            memory=memory,
        )

    def _remembered_once(
        self, counts: Mapping[str, int], number: int, what: str, compute: Compute
    ) -> Any:
        return self.remembered(counts, f"{what}, trial {number}", compute)
