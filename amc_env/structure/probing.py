"""Proof by shapes and channel ids that every layer of a cut network gets its own channels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, call, count, tensors_in
from amc_env.structure.channel_ids import along
from amc_env.structure.channel_statistics import STATISTICS_HANDLERS
from amc_env.structure.cutting import cut_copy, keep_mask, kept_labels
from amc_env.structure.layer_operations import BATCH_NORMS, INSTANCE_NORMS, LAYER_HANDLERS
from amc_env.structure.ledger import Verification
from amc_env.structure.module_copy import Template
from amc_env.structure.naming import named_modules
from amc_env.structure.records import Structure
from amc_env.structure.search import Failure, failing_groups
from amc_env.structure.sequence_operations import SEQUENCE_HANDLERS
from amc_env.structure.tensor_operations import TENSOR_HANDLERS
from amc_env.structure.tracer import Handler, Tracer

HANDLERS: Mapping[str, Handler] = {
    **TENSOR_HANDLERS,
    **LAYER_HANDLERS,
    **SEQUENCE_HANDLERS,
    **STATISTICS_HANDLERS,
}
_NETWORK_INPUT = "they are the network's input"
# These behave differently in training, but lead to no other layers.
_SAME_LAYERS_IN_TRAINING = (
    *BATCH_NORMS,
    *INSTANCE_NORMS,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


@contextmanager
def training_flags(model: nn.Module) -> Iterator[None]:
    """Set the training flag of the modules that decide which layers run."""
    modules = [
        m for m in named_modules(model).values() if not isinstance(m, _SAME_LAYERS_IN_TRAINING)
    ]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


def follow(tracer: Tracer, model: nn.Module, inputs: Batch) -> object:
    """Run the model with channel ids beside its tensors, and return what it returns."""
    for x in tensors_in(inputs):
        channels = tracer.ledger.constant((x.shape[1] if x.dim() > 1 else 1,), _NETWORK_INPUT)
        tracer.assign(x, along(channels, tuple(x.shape), 1) if x.dim() > 1 else channels)
    with tracer.following():
        return call(model, inputs)


def _thin_even(number: int, channels: int) -> Tensor:
    return torch.arange(channels - 1 if number % 2 == 0 else channels)


def _thin_odd(number: int, channels: int) -> Tensor:
    return _thin_even(number + 1, channels)


def _uneven(number: int, channels: int) -> Tensor:
    """Some channels, in no proportion to what other groups keep."""
    generator = torch.Generator().manual_seed(number)
    count = int(torch.randint(1, channels + 1, (), generator=generator))
    return torch.randperm(channels, generator=generator)[:count].sort().values


def _without_first(_: int, channels: int) -> Tensor:
    return torch.arange(1, channels)


def _last(_: int, channels: int) -> Tensor:
    return torch.tensor([channels - 1])


# Which channels the group of a number keeps in a trial. Groups that depend on each other in a
# way no operation shows are found only when they are cut by different amounts, and channels that
# are moved around an end, as by a roll, only when that end is cut.
_Choice = Callable[[int, int], Tensor]
_CHOICES: tuple[_Choice, ...] = (_thin_even, _thin_odd, _uneven, _without_first, _last)


@dataclass(frozen=True)
class Prober:
    """Cuts groups of a model for real and says why a cut network fails.

    Args:
        template: The model.
        runs: Whether the training flag is on, for each run of a cut network.
    """

    template: Template
    inputs: Batch
    structure: Structure
    runs: tuple[bool, ...]

    def refusals(self) -> dict[str, str]:
        """Why groups cannot be cut, by name; empty when all can be cut together."""
        names = [group.name for group in self.structure.groups]
        for choose in _CHOICES:
            trial = partial(self._failure, choose=choose)
            refused = failing_groups(names, trial, what="following the channels of cut networks")
            # The choices that are left would run into the same failures again.
            if refused:
                return {name: f"a cut network fails: {why}" for name, why in refused.items()}
        return {}

    def _failure(self, names: Sequence[str], *, choose: _Choice) -> Failure | None:
        chosen = set(names)
        kept = {
            group.name: choose(number, group.channels)
            for number, group in enumerate(self.structure.groups)
            if group.name in chosen
        }
        whole = all(
            len(kept[g.name]) == g.channels for g in self.structure.groups if g.name in kept
        )
        # With nothing to cut, the network itself would be tried, which has already run.
        if names and whole:
            return None
        mask = keep_mask(self.structure, kept)
        compact = cut_copy(self.template, self.structure, mask)
        # Channels of no group in this trial are whole, so any place may stand for them.
        fixed = torch.ones(self.structure.n_labels, dtype=torch.bool)
        for name in names:
            fixed[self.structure.classes[name]] = False
        ledger = Verification(
            kept_labels(self.structure.axes, mask), fixed=fixed, facts=self.structure.facts
        )
        tracer = Tracer(compact, ledger=ledger, handlers=HANDLERS, batch=count(self.inputs))
        try:
            # Auxiliary heads run in training alone, and have to fit the cut channels too.
            for training in self.runs:
                with training_flags(compact) if training else nullcontext():
                    follow(tracer, compact, self.inputs)
        except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
            name, _ = tracer.current_module()
            reason = f"{_first_line(error)} (in {name or 'the model'})"
            near = self._groups_of(tracer.labels_at_failure())
            return Failure(reason=reason, suspects=near & chosen)
        return None

    def _groups_of(self, labels: set[int]) -> frozenset[str]:
        classes = self.structure.classes.items()
        return frozenset(name for name, own in classes if not labels.isdisjoint(own.tolist()))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
