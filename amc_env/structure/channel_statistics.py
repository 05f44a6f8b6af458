"""Norms over channels that are written as vector norms: ``F.normalize``, GRN, cosine similarity.

As a layer norm does, they take other statistics where channels are gone, so that a cut network is
not the same as one whose channels are silenced; shapes and costs are exact.
"""

from collections.abc import Callable

import torch

from amc_env.structure.channel_ids import narrow_repeats
from amc_env.structure.tensor_operations import are_channels_along, reduce
from amc_env.structure.tracer import Call, Tracer

_NEUTRAL = torch.zeros((), dtype=torch.long)


def normalized(trace: Tracer, call: Call) -> None:
    """Follow ``F.normalize``, which divides by a norm along one dimension."""
    dims = [call.arg(2, "dim", 1) % call.subject.dim()]
    ids = trace.ledger.canonical(trace.ids(call.subject))
    is_over = _is_over_channels(trace, call, dims)
    trace.assign(call.out, ids if is_over else trace.collapse(ids, dims))


def vector_norm(trace: Tracer, call: Call) -> None:
    """Follow a vector norm: of each channel's map, or over channels."""
    x = call.subject
    dims = _dims(call.arg(2, "dim"), x.dim())
    if _is_over_channels(trace, call, dims):
        trace.assign(call.out, _NEUTRAL)
        return
    ids = trace.collapse(trace.ledger.canonical(trace.ids(x)), dims)
    trace.assign(call.out, ids.reshape(call.out.shape))
    trace.magnitudes.add(id(call.out))


def mean(trace: Tracer, call: Call) -> None:
    """Follow a mean; one over channels of their magnitudes is a norm over channels.

    This is the global response normalisation of Woo et al., "ConvNeXt V2", 2023, section 3.2. Any
    other mean over channels says something about the image, and needs them all.
    """
    dims = _dims(call.arg(1, "dim"), call.subject.dim())
    is_norm = id(call.subject) in trace.magnitudes and _is_over_channels(trace, call, dims)
    if is_norm:
        trace.assign(call.out, _NEUTRAL)
    else:
        reduce(trace, call)


def cosine_similarity(trace: Tracer, call: Call) -> None:
    """Follow a cosine similarity of two tensors along one dimension."""
    first, second = call.arg(0, "x1"), call.arg(1, "x2")
    dims = [call.arg(2, "dim", 1) % first.dim()]
    trace.ledger.unite(trace.ids(first), trace.ids(second))
    if _is_over_channels(trace, call, dims):
        trace.assign(call.out, _NEUTRAL)
        return
    ids = trace.collapse(trace.ledger.canonical(trace.ids(first)), dims)
    trace.assign(call.out, ids.reshape(call.out.shape))


def _is_over_channels(trace: Tracer, call: Call, dims: list[int]) -> bool:
    """Whether channels lie along ``dims`` alone; a norm over them is noted."""
    x = call.args[0]
    # In a network cut to one channel nothing varies, so the whole network decides.
    if not trace.settle(call, lambda: are_channels_along(trace, x, dims)):
        return False
    trace.ledger.channel_norm(narrow_repeats(trace.ids(x))[0])
    return True


def _dims(given: object, rank: int) -> list[int]:
    if isinstance(given, int):
        return [given % rank]
    if isinstance(given, (tuple, list)) and given:
        return [dim % rank for dim in given]
    return list(range(rank))


STATISTICS_HANDLERS: dict[str, Callable[[Tracer, Call], None]] = {
    "normalize": normalized,
    "norm": vector_norm,
    "linalg_vector_norm": vector_norm,
    "mean": mean,
    "cosine_similarity": cosine_similarity,
}
