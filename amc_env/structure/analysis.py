"""Takes a model apart once: run it, group its channels, prove each group by real cuts."""

import copy
import logging
from collections.abc import Mapping

import torch
from torch import nn

from amc_env.batches import Batch, call, count, first_tensor, moved, tensors_in
from amc_env.structure.grouping import Rounding, structure_of
from amc_env.structure.ledger import Discovery
from amc_env.structure.module_copy import Template, copy_module
from amc_env.structure.naming import named_tensors
from amc_env.structure.probing import HANDLERS, Prober, follow, training_flags
from amc_env.structure.records import Structure
from amc_env.structure.stored_sizes import mark_stored_sizes_
from amc_env.structure.tracer import Tracer
from amc_env.structure.values import own_randomness, value_refusals

_LOG = logging.getLogger(__name__)
_SMALL_INPUT = 32 * 1024
_SMALL_MODEL = 20_000_000
_NETWORK_OUTPUT = "they are the network's output"


def analyse(
    model: nn.Module,
    inputs: Batch,
    *,
    ignored: frozenset[str],
    rounding: Rounding,
) -> Structure:
    """Find the groups of ``model`` and prove by cuts that they can be cut.

    Raises:
        ValueError: The model cannot be copied or cannot be run on ``inputs``.
    """
    with own_randomness(inputs):
        _check_types(model, inputs)
        return _analyse(model, inputs, ignored, rounding)


def _analyse(
    model: nn.Module, inputs: Batch, ignored: frozenset[str], rounding: Rounding
) -> Structure:
    _LOG.info("running the network once to find its channels")
    twin, given, found = _first_run(model, inputs, ignored)
    calls = tuple(found.calls)
    trained = _with_training_branches(twin, given, found, ignored)
    runs = (False,) if trained is None else (False, True)
    found = trained or found
    refused: dict[int, str] = {}
    template = Template(twin)
    while True:
        structure = structure_of(found, twin, rounding=rounding, refused=refused)
        # Values cost far more than shapes, so they are compared only for what passed the first
        # proof. A refusal changes the groups, and the new ones are proved from the beginning.
        new = Prober(template, given, structure, runs).refusals() or _value_refusals(
            model, inputs, structure, calls
        )
        if not new:
            return structure
        refused.update(_by_label(structure, new))


def _first_run(
    model: nn.Module, inputs: Batch, ignored: frozenset[str]
) -> tuple[nn.Module, Batch, Discovery]:
    """A copy to analyse, inputs for it, and what one run of it discovers."""
    if not _is_small(model, inputs):
        try:
            # Shapes suffice to follow channels, whatever the layers would have to compute.
            twin, given = _evaluation_copy(model, on_meta=True), moved(inputs, "meta")
            return twin, given, _discover(_unused_copy(twin), given, ignored)
        except ValueError:
            # Some code looks at values, to choose its way or to build tensors of them.
            _LOG.info("the network does not run without values: running it on the example")
    twin = _evaluation_copy(model, on_meta=False)
    return twin, inputs, _discover(_unused_copy(twin), inputs, ignored)


def _unused_copy(model: nn.Module) -> nn.Module:
    """A copy to discover channels in, which shares the parameters.

    A module may keep what its first run computes, as torchvision's detectors keep the scales of
    their levels, and then runs otherwise; every run of the analysis is a first one.
    """
    memo: dict[int, object] = {id(p): p for p in model.parameters()}
    copied = copy_module(model, memo)
    mark_stored_sizes_(copied)
    return copied


def _is_small(model: nn.Module, inputs: Batch) -> bool:
    # The meta device spends a millisecond of Python on a layer, and seconds on importing torch's
    # compiler first. To compute a small network is cheaper than that.
    return (
        sum(x.numel() for x in tensors_in(inputs)) <= _SMALL_INPUT
        and sum(p.numel() for p in model.parameters()) <= _SMALL_MODEL
    )


def _value_refusals(
    model: nn.Module, inputs: Batch, structure: Structure, calls: tuple[str, ...]
) -> dict[str, str]:
    if not structure.groups:
        return {}
    refused = value_refusals(model, inputs, structure, calls=calls)
    if refused is None:
        # The shapes fitted, but with values the original may not run either.
        _check_runs(_evaluation_copy(model, on_meta=False), inputs)
    return refused or {}


def _by_label(structure: Structure, reasons: Mapping[str, str]) -> dict[int, str]:
    return {
        label: reason
        for name, reason in reasons.items()
        for label in structure.classes[name].tolist()
    }


def _evaluation_copy(model: nn.Module, *, on_meta: bool) -> nn.Module:
    memo: dict[int, object] = {}
    if on_meta:
        for _, tensor in named_tensors(model):
            if tensor.is_floating_point():
                shape = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
                )
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(shape) if is_parameter else shape
    try:
        return copy_module(model, memo).eval()
    except Exception as error:
        raise ValueError(
            f"the model ({type(model).__name__}) cannot be copied: {error}; remove what "
            "copy.deepcopy refuses, such as tensors with a gradient history kept on a module"
        ) from error


def _check_types(model: nn.Module, inputs: Batch) -> None:
    """Refuse an input whose precision or device is not the model's, if it does not run."""
    own = {(p.dtype, p.device) for p in model.parameters() if p.is_floating_point()}
    given = {(x.dtype, x.device) for x in tensors_in(inputs) if x.is_floating_point()}
    # The meta device computes shapes whatever the types are. A model may still convert its
    # input itself, so only a real run can tell; where the types agree, it is not needed.
    if own and given and not given <= own:
        _check_runs(_evaluation_copy(model, on_meta=False), inputs)


def _check_runs(copied: nn.Module, inputs: Batch) -> None:
    try:
        with torch.no_grad():
            call(copied, inputs)
    except Exception as error:
        raise ValueError(_does_not_run(copied, inputs, error)) from error


def _runs(model: nn.Module, inputs: Batch) -> bool:
    try:
        with torch.no_grad():
            call(model, inputs)
    except Exception:  # noqa: BLE001 (a user's forward may raise anything)
        return False
    return True


def _does_not_run(model: nn.Module, inputs: Batch, error: Exception) -> str:
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors_in(inputs))
    x = first_tensor(inputs)
    weights = next((p for p in model.parameters() if p.is_floating_point()), x)
    if x.is_floating_point() and x.dtype != weights.dtype and not weights.is_meta:
        return (
            f"the model ({type(model).__name__}) has weights of {weights.dtype} and does not run "
            f"on an example_input of {x.dtype}; give example_input.to({weights.dtype})"
        )
    return (
        f"the model ({type(model).__name__}) does not run on an example_input of shape "
        f"{shapes}, {x.dtype}: {error}; give one that model(example_input) accepts"
    )


def _discover(model: nn.Module, inputs: Batch, ignored: frozenset[str]) -> Discovery:
    found = Discovery()
    _run(model, inputs, found, ignored)
    return found


def _run(model: nn.Module, inputs: Batch, found: Discovery, ignored: frozenset[str]) -> None:
    tracer = Tracer(model, ledger=found, handlers=HANDLERS, batch=count(inputs), ignored=ignored)
    try:
        outputs = follow(tracer, model, inputs)
        found.calls = tracer.calls
    except Exception as error:
        if _runs(model, inputs):
            raise ValueError(
                f"the model ({type(model).__name__}) runs, but its channels cannot be followed: "
                f"{error}"
            ) from error
        raise ValueError(_does_not_run(model, inputs, error)) from error
    for tensor in tensors_in(outputs):
        found.freeze(tracer.ids(tensor), _NETWORK_OUTPUT)


def _with_training_branches(
    model: nn.Module, inputs: Batch, found: Discovery, ignored: frozenset[str]
) -> Discovery | None:
    """What was found, and layers that only training runs, such as auxiliary heads; None if none."""
    reached = {tensor for layer in found.layers.values() for tensor in layer.use.tensors}
    reached |= {tensor for tensor, _ in found.axes} | set(found.parameters)
    if all(name in reached or p.dim() < 2 for name, p in model.named_parameters()):
        return None
    model, more = _unused_copy(model), copy.deepcopy(found)
    more.counts_uses = False
    try:
        with training_flags(model):
            _run(model, inputs, more, ignored)
    except ValueError:
        # The example may be too small for a head that only training uses.
        return None
    return more if len(more.layers) > len(found.layers) else None
