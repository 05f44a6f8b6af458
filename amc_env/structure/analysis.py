"""Takes a model apart once: run it, group its channels, prove each group by a real cut."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc_env.structure.channel_ids import along
from amc_env.structure.cutting import cut_channels, keep_mask, kept_labels, named_tensors
from amc_env.structure.grouping import Rounding, structure_of
from amc_env.structure.layer_operations import BATCH_NORMS, INSTANCE_NORMS, LAYER_HANDLERS
from amc_env.structure.ledger import Discovery, Verification
from amc_env.structure.records import ChannelGroup, Structure
from amc_env.structure.tensor_operations import TENSOR_HANDLERS
from amc_env.structure.tracer import Tracer, tensors_in

_HANDLERS = {**TENSOR_HANDLERS, **LAYER_HANDLERS}
_NETWORK_INPUT = "they are the network's input"
_NETWORK_OUTPUT = "they are the network's output"
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


def analyse(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    ignored: frozenset[str],
    rounding: Rounding,
) -> Structure:
    """Find the groups of ``model`` and prove by cuts that they can be cut.

    Raises:
        ValueError: The model cannot be copied or cannot be run on ``inputs``.
    """
    try:
        # Shapes suffice to follow channels, and on the meta device they cost nothing.
        twin, given = _evaluation_copy(model, on_meta=True), tuple(x.to("meta") for x in inputs)
        found = _discover(twin, given, ignored)
    except ValueError:
        twin, given = _evaluation_copy(model, on_meta=False), inputs
        found = _discover(twin, given, ignored)
    trained = _with_training_branches(twin, given, found, ignored)
    runs = (False,) if trained is None else (False, True)
    found = trained or found
    refused: dict[int, str] = {}
    while True:
        structure = structure_of(found, twin, rounding=rounding, refused=refused)
        new = _Prober(twin, given, structure, runs).refusals()
        if not new:
            return structure
        refused.update(new)


def _evaluation_copy(model: nn.Module, *, on_meta: bool) -> nn.Module:
    memo: dict[int, object] = {}
    if on_meta:
        for _, tensor in named_tensors(model):
            if tensor.is_floating_point():
                shape = torch.empty_like(tensor, device="meta")
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(shape) if is_parameter else shape
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise ValueError(
            f"the model ({type(model).__name__}) cannot be copied: {error}; remove what "
            "copy.deepcopy refuses, such as tensors with a gradient history kept on a module"
        ) from error


def _discover(model: nn.Module, inputs: tuple[Tensor, ...], ignored: frozenset[str]) -> Discovery:
    found = Discovery()
    _run(model, inputs, found, ignored)
    return found


def _run(
    model: nn.Module, inputs: tuple[Tensor, ...], found: Discovery, ignored: frozenset[str]
) -> None:
    tracer = Tracer(
        model, ledger=found, handlers=_HANDLERS, batch=inputs[0].shape[0], ignored=ignored
    )
    try:
        outputs = _follow(tracer, model, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"the model ({type(model).__name__}) does not run on an example_input of shape "
            f"{shapes}, {inputs[0].dtype}: {error}; give one that model(example_input) accepts"
        ) from error
    for tensor in tensors_in(outputs):
        found.freeze(tracer.ids(tensor), _NETWORK_OUTPUT)


def _with_training_branches(
    model: nn.Module, inputs: tuple[Tensor, ...], found: Discovery, ignored: frozenset[str]
) -> Discovery | None:
    """What was found, and layers that only training runs, such as auxiliary heads; None if none."""
    reached = {tensor for layer in found.layers.values() for tensor in layer.use.tensors}
    reached |= {tensor for tensor, _ in found.axes}
    if all(name in reached or p.dim() < 2 for name, p in model.named_parameters()):
        return None
    more = copy.deepcopy(found)
    more.counts_uses = False
    try:
        with _training_flags(model, on=True):
            _run(model, inputs, more, ignored)
    except ValueError:
        # The example may be too small for a head that only training uses.
        return None
    return more if len(more.layers) > len(found.layers) else None


@contextmanager
def _training_flags(model: nn.Module, *, on: bool) -> Iterator[None]:
    """Set the training flag of the modules that decide which layers run."""
    modules = [m for m in model.modules() if not isinstance(m, _SAME_LAYERS_IN_TRAINING)]
    for module in modules:
        module.training = on
    try:
        yield
    finally:
        for module in modules:
            module.training = False


def _follow(tracer: Tracer, model: nn.Module, inputs: tuple[Tensor, ...]) -> object:
    with tracer.following():
        for x in inputs:
            channels = tracer.ledger.constant((x.shape[1] if x.dim() > 1 else 1,), _NETWORK_INPUT)
            tracer.assign(x, along(channels, tuple(x.shape), 1) if x.dim() > 1 else channels)
        return model(*inputs)


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
class _Prober:
    """Cuts groups of a model for real and says why a cut network fails."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    structure: Structure
    runs: tuple[bool, ...]

    def refusals(self) -> dict[int, str]:
        """Why channels cannot be cut, by label; empty when every group can.

        All groups are cut at once first; only when that fails is each tried by itself, and
        when each can be cut alone, ever more of them together.
        """
        groups = list(enumerate(self.structure.groups))
        for choose in _CHOICES:
            if self._failure(groups, choose) is not None:
                alone = {item[1].name: self._failure([item], choose) for item in groups}
                return self._by_label(alone) or self._by_label(self._failing_together(choose))
        return {}

    def _failing_together(self, choose: _Choice) -> dict[str, str | None]:
        together: list[tuple[int, ChannelGroup]] = []
        reasons: dict[str, str | None] = {}
        for item in enumerate(self.structure.groups):
            reasons[item[1].name] = self._failure([*together, item], choose)
            if reasons[item[1].name] is None:
                together.append(item)
        return reasons

    def _by_label(self, reasons: Mapping[str, str | None]) -> dict[int, str]:
        return {
            label: f"a cut network fails: {reason}"
            for name, reason in reasons.items()
            if reason is not None
            for label in self.structure.classes[name].tolist()
        }

    def _failure(self, groups: Sequence[tuple[int, ChannelGroup]], choose: _Choice) -> str | None:
        kept = {group.name: choose(number, group.channels) for number, group in groups}
        if all(len(kept[group.name]) == group.channels for _, group in groups):
            return None
        mask = keep_mask(self.structure, kept)
        compact = cut_channels(self.model, self.structure, mask)
        fixed = torch.ones(self.structure.n_labels, dtype=torch.bool)
        for labels in self.structure.classes.values():
            fixed[labels] = False
        ledger = Verification(
            kept_labels(self.structure.axes, mask), fixed=fixed, facts=self.structure.facts
        )
        tracer = Tracer(compact, ledger=ledger, handlers=_HANDLERS, batch=self.inputs[0].shape[0])
        try:
            for training in self.runs:
                with _training_flags(compact, on=training):
                    _follow(tracer, compact, self.inputs)
        except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
            name, _ = tracer.current_module()
            return f"{_first_line(error)} (in {name or 'the model'})"
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
