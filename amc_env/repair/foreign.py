"""Repairs a network that another tool has cut, or that was cut by hand."""

import copy
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, count, first, in_parts, taken, tensors_in
from amc_env.calibration import calibrate
from amc_env.calibration.hooks import checked_batch, evaluating, run
from amc_env.repair.matching import kept_channels
from amc_env.repair.norms import rebase_norms_
from amc_env.repair.plan import Reconstruction, repaired_layers
from amc_env.repair.sequential import repair_sequentially_
from amc_env.repair.settings import RepairSettings
from amc_env.structure import ChannelGraph
from amc_env.structure.graph import plain

_LOG = logging.getLogger(__name__)
# One sample in so many is held out of the solve, to judge the repair on.
_JUDGES = 5
# How far outputs may be apart, relative to the largest, for two networks to count as equal.
_TOLERANCE = 1e-3


def repair(
    small: nn.Module,
    original: nn.Module,
    samples: Batch,
    *,
    settings: RepairSettings | None = None,
) -> nn.Module:
    """A copy of ``small`` with new weights, which bring its outputs nearer to the original's.

    ``small`` is ``original`` without some channels, cut by any tool: modules and parameters have
    the same names in both, and its weights are slices of the original's, perhaps fine-tuned a
    little. Which channels were kept is found by comparing weights. Then the layers are solved for
    by least squares, all together and then one after the other, as those of the network that a
    search keeps (``amc_env.repair.pruner``).

    One sample in five is held out of the solve. The repaired network is returned only if on these
    its outputs are nearer to the original's, in squares, than those of ``small``, and if no more
    samples have another largest score than in the original; otherwise a copy of ``small`` as it is
    is returned. Labels are not needed. Neither network is changed.

    Args:
        small: The cut network.
        original: The trained network that it was cut from.
        samples: A few hundred samples of the training data, as the networks read them: a tensor, or
            a tuple or mapping of tensors for networks that take several.
        settings: How weights are repaired; every repair here is sequential, whether ``repair`` is
            ``sequential`` or ``plain``, and norms are not estimated again. By default 64 positions
            of each map count.

    Raises:
        ValueError: The networks do not belong together, nothing was cut, or an argument does not
            fit. The message names the layer, the shapes and what would do.
    """
    # One repair may take longer than those of a search, and somebody may have few samples.
    settings = settings or RepairSettings(sampled_positions=64)
    _check_arguments(small, samples, settings)
    small, original = plain(small), plain(original)
    graph = ChannelGraph(original, first(samples, 2))
    kept = kept_channels(graph, small)
    if not kept:
        raise ValueError(
            "the cut network has all channels of the original, so that there is nothing to repair; "
            "remove channels, as a mask of zeros does not"
        )
    compact = graph.compact(kept)
    _copy_tensors_(small, compact)
    _check_equal(compact, small, first(samples, 2))
    is_held_out = torch.arange(count(samples)) % _JUDGES == min(_JUDGES, count(samples)) - 1
    solved = in_parts(taken(samples, ~is_held_out), settings.calibration_batch)
    _repair_(compact, graph, kept, solved, settings)
    batches = in_parts(taken(samples, is_held_out), settings.calibration_batch)
    return _better(small, compact, original, batches)


def _check_arguments(small: object, samples: object, settings: RepairSettings) -> None:
    if not isinstance(small, nn.Module):
        raise ValueError(f"the cut network is a {type(small).__name__}; give a torch.nn.Module")
    if count(checked_batch(samples)) < 2:
        raise ValueError("there is one sample; give at least two, and better a few hundred")
    if not settings.is_on:
        raise ValueError("repair is 'none', which asks for no repair at all; give 'sequential'")
    if settings.norm_samples:
        raise ValueError(
            f"norm_samples is {settings.norm_samples}, but the repair is sequential, after which "
            "norms are not estimated again; give 0"
        )


def _repair_(
    compact: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    batches: Sequence[Batch],
    settings: RepairSettings,
) -> None:
    """Solve all layers at once, then one after the other, pulled towards what was found first."""
    layers = repaired_layers(graph)
    calibration = calibrate(graph.model, batches, layers=layers, sampling=settings.sampling)
    # The plan solves for channels in an order; those that stay come first.
    orders = {
        group.name: _kept_first(kept.get(group.name), group.channels) for group in graph.groups
    }
    Reconstruction(graph, calibration, orders, ridge=settings.ridge, takes_grams=True).apply_(
        compact, kept
    )
    repair_sequentially_(compact, graph, kept, batches, settings=settings.by_layer)
    rebase_norms_(compact, batches)


def _kept_first(kept: Tensor | None, channels: int) -> Tensor:
    """All channels, those that stay before the others."""
    every = torch.arange(channels)
    if kept is None:
        return every
    return torch.cat([kept, every[~torch.isin(every, kept)]])


@torch.no_grad()
def _copy_tensors_(source: nn.Module, target: nn.Module) -> None:
    """Write all parameters and buffers of a network into one of the same shapes."""
    tensors = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    for name, tensor in (*target.named_parameters(), *target.named_buffers()):
        # Converted before it is copied, as the target's device may have no float64.
        tensor.copy_(tensors[name].to(tensor.dtype))


def _check_equal(compact: nn.Module, small: nn.Module, batch: Batch) -> None:
    """Refuse a cut network that computes something else than the original without its channels."""
    for wanted, given in zip(_outputs(compact, batch), _outputs(small, batch), strict=True):
        if wanted.shape != given.shape or not _is_close(given, wanted):
            raise ValueError(
                "the cut network does not compute what the original without the same channels "
                "does, though all shapes fit: layers whose outputs are added or concatenated may "
                "have lost different channels, or its forward was changed; cut whole groups of "
                "channels"
            )


def _is_close(given: Tensor, wanted: Tensor) -> bool:
    return bool((given - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


def _better(
    small: nn.Module, compact: nn.Module, original: nn.Module, batches: Sequence[Batch]
) -> nn.Module:
    """A copy of ``small``, with the weights of ``compact`` if these are better on some samples."""
    errors = torch.zeros(2, 2, dtype=torch.float64)
    for x in batches:
        wanted = _outputs(original, x)
        errors += torch.tensor(
            [_errors(_outputs(network, x), wanted) for network in (small, compact)]
        )
    given, repaired = errors
    _LOG.info("squared distance and changed decisions: given %s, repaired %s", *errors.tolist())
    result = copy.deepcopy(small)
    if (repaired <= given).all() and (repaired < given).any():
        _copy_tensors_(compact, result)
    return result


def _errors(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """Squared distance to the wanted outputs, and how many samples have another largest score."""
    pairs = list(zip(outputs, wanted, strict=True))
    squares = sum(float((own - other).square().sum()) for own, other in pairs)
    # A fine-tuned network has scores of its own: far from the original's, but for the same classes.
    changed = sum(int((a.argmax(1) != b.argmax(1)).sum()) for a, b in pairs if a.dim() == 2)
    return squares, float(changed)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """All tensors that a network gives for a batch."""
    with evaluating(model):
        return [output.double() for output in tensors_in(run(model, batch))]
