"""What operations without weights do to channel ids: movement, pooling, arithmetic."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from amc_env.batches import tensors_in
from amc_env.structure.channel_ids import NEUTRAL, narrow_repeats
from amc_env.structure.stored_sizes import (
    store_narrow_bounds,
    store_shape,
    store_slice_bounds,
    store_split_sizes,
)
from amc_env.structure.tracer import Call, Tracer

_Handler = Callable[[Tracer, Call], None]


def same(trace: Tracer, call: Call) -> None:
    """The result holds the subject's channels, element for element."""
    only = trace.only_dim(call.subject)
    if only is not None and call.out.shape == call.subject.shape:
        trace.spread(call.out, trace.axis(call.subject, only), only)
    else:
        trace.assign(call.out, trace.ids(call.subject))


def reshape(trace: Tracer, call: Call) -> None:
    """The result holds the subject's elements in their order, in another shape."""
    ids = trace.ids(call.subject).reshape(call.out.shape)
    trace.assign(call.out, _respread(ids))
    store_shape(trace, call)


def move(trace: Tracer, call: Call) -> None:
    """Apply the movement to the ids themselves."""
    # The operation itself is run on the ids, so no rule has to be written for any of them.
    moved = call.func(*_as_ids(trace, call.args), **_as_ids(trace, dict(call.kwargs)))
    for out, ids in zip(call.outputs, tensors_in(moved), strict=True):
        trace.assign(out, _respread(ids))


def join(trace: Tracer, call: Call) -> None:
    """Move, as the concatenation of parts."""
    parts, dim = call.tensors, call.arg(1, "dim", call.kwargs.get("axis", 0))
    only = {trace.only_dim(part) for part in parts}
    # To join the ids of every pixel of a dense block costs as much as to join the images.
    if only == {dim % call.out.dim() - call.out.dim()}:
        trace.spread(call.out, torch.cat([trace.axis(part, dim) for part in parts]), dim)
    else:
        move(trace, call)


def split(trace: Tracer, call: Call) -> None:
    """Move, and keep equal parts equal: a split in n parts stays one only if all shrink alike.

    Sizes that a module keeps, as in ``split(x, self.sizes)``, are cut with the parts instead.
    """
    move(trace, call)
    parts = call.outputs
    has_sizes = call.name.startswith("split")
    # Parts of a cut network may have equal sizes by chance, so the whole network decides.
    apart = trace.settle(call, lambda: has_sizes and store_split_sizes(trace, call))
    if not apart and len({tuple(part.shape) for part in parts}) == 1:
        first = trace.ids(parts[0])
        for part in parts[1:]:
            trace.ledger.unite(first, trace.ids(part))


def take(trace: Tracer, call: Call) -> None:
    """Move, and note bounds along channels that a module keeps, as in ``x[:, :self.width]``."""
    move(trace, call)
    store_slice_bounds(trace, call)


def take_range(trace: Tracer, call: Call) -> None:
    """Move, as an index that is a range."""
    move(trace, call)
    store_narrow_bounds(trace, call)


def gated_linear(trace: Tracer, call: Call) -> None:
    """Follow a gated linear unit: one half of the channels gates the other."""
    first, second = trace.ids(call.subject).chunk(2, int(call.arg(1, "dim", -1)))
    trace.ledger.unite(first, second)
    trace.assign(call.out, first)


def pad(trace: Tracer, call: Call) -> None:
    """Padding beside channels adds places of a fixed number; padding in space adds nothing."""
    ids, amounts = trace.ids(call.subject), list(call.arg(1, "pad"))
    for number in range(len(amounts) // 2):
        before, after = amounts[2 * number : 2 * number + 2]
        dim = ids.dim() - 1 - number
        if not before and not after:
            continue
        size = ids.shape[dim] + before + after
        # Whether an axis holds channels or pixels shows in the ids alone: along pixels they are
        # equal.
        if not trace.settle(call, partial(_varies, trace.ledger.canonical(ids), dim)):
            ids = ids.narrow(dim, 0, 1).expand(_resized(ids, dim, size))
            continue
        reason = f"{trace.where(call)} adds a fixed number of channels beside them"
        sides = [
            trace.ledger.constant(_resized(ids, dim, max(n, 0)), reason) for n in (before, after)
        ]
        inner = ids.narrow(dim, max(-before, 0), size - max(before, 0) - max(after, 0))
        ids = torch.cat([sides[0], inner, sides[1]], dim)
    trace.assign(call.out, ids)


def pool(*, spatial: int | None) -> _Handler:
    """A handler for what works on each channel's map alone.

    Args:
        spatial: Number of trailing dimensions of a map; all but two if None.
    """

    def handle(trace: Tracer, call: Call) -> None:
        x, only = call.subject, trace.only_dim(call.subject)
        count = x.dim() - 2 if spatial is None else spatial
        if only is not None and only < -count:
            for out in call.outputs:
                trace.spread(out, trace.axis(x, only), only)
            return
        # Ids that differ within a map, as behind a reshape of channels into space, are mixed by the
        # pooling and so become one channel.
        ids = trace.collapse(trace.ids(x), list(range(x.dim() - count, x.dim())))
        for out in call.outputs:
            trace.assign(out, ids)

    return handle


def region_pool(trace: Tracer, call: Call) -> None:
    """Each region is pooled from the channels of the maps, whatever region it is."""
    trace.spread(call.out, trace.axis(call.subject, 1), 1)


def reduce(trace: Tracer, call: Call) -> None:
    """Unite what a reduction brings together; one over the channels of a map needs them all.

    In space nothing is united, since a channel has the same id everywhere there. Along an axis on
    which branches were stacked, each channel meets its like in the other branches, as in a sum of
    two terms.
    """
    x = call.subject
    if isinstance(call.arg(1, "other"), Tensor):
        elementwise(trace, call)
        return
    dims = _reduced_dims(call, x.dim())
    if _needs_all_channels(trace, call, dims):
        return
    ids = trace.collapse(trace.ledger.canonical(trace.ids(x)), dims)
    for out in call.outputs:
        trace.assign(out, ids.reshape(out.shape))


def over_dim(trace: Tracer, call: Call) -> None:
    """A softmax or the like: as a reduction, but every entry stays."""
    dim = call.arg(1, "dim")
    dims = [dim % call.subject.dim()] if isinstance(dim, int) else []
    if not dims:
        trace.freeze_inputs(call, f"{trace.where(call)} works over these channels")
    elif not _needs_all_channels(trace, call, dims):
        ids = trace.ledger.canonical(trace.ids(call.subject))
        trace.assign(call.out, trace.collapse(ids, dims))


def _needs_all_channels(trace: Tracer, call: Call, dims: list[int]) -> bool:
    """Freeze the subject's channels, and say so, where ``dims`` is all that they lie along.

    Where they lie along another axis too, as in a stack of branches or in channels viewed as parts,
    every result comes from a few channels, which can be cut together.
    """
    # In a network cut to one channel nothing varies, so the whole network decides.
    if not trace.settle(call, partial(are_channels_along, trace, call.subject, dims)):
        return False
    trace.freeze_inputs(call, f"{trace.where(call)} works over these channels")
    return True


def are_channels_along(trace: Tracer, x: Tensor, dims: list[int]) -> bool:
    """Whether the channels of a tensor lie along some dimensions, and along no others."""
    ids = trace.ledger.canonical(trace.ids(x))
    others = [d for d in range(ids.dim()) if d not in dims]
    return any(_varies(ids, d) for d in dims) and not any(_varies(ids, d) for d in others)


def elementwise(trace: Tracer, call: Call) -> None:
    """Channels that meet are one channel; a map of one channel, spread over many, stays."""
    if not isinstance(call.out, Tensor):
        trace.freeze_inputs(call, f"{trace.where(call)} returns several tensors")
        return
    shape = call.out.shape
    # A number without a place in the model carries no channels and spreads over any.
    operands = [t for t in call.tensors if t.numel() > 1 or trace.knows(t)]
    dim = _common_dim(trace, operands, shape)
    if dim is not None:
        # One id a channel says all that one for every pixel does.
        spread = [trace.axis(t, dim) for t in operands]
    else:
        spread = [_aligned(trace.ids(t), shape) for t in operands]
    result = None
    for number, ids in enumerate(spread):
        others = [other for k, other in enumerate(spread) if k != number]
        covers = partial(_is_spread_over_channels, trace, operands[number], shape, others)
        if trace.settle(call, (lambda: False) if dim is not None else covers):
            trace.ledger.freeze(ids, f"{trace.where(call)} spreads them over other channels")
            continue
        result = ids if result is None else _united(trace, result, ids)
    if result is None:
        neutral(trace, call)
    elif dim is None:
        trace.assign(call.out, result)
    else:
        trace.spread(call.out, result, dim)


def _common_dim(trace: Tracer, operands: list[Tensor], shape: torch.Size) -> int | None:
    """The dimension, counted from the end, along which all operands' ids lie; None if none is."""
    dims = {trace.only_dim(t) for t in operands}
    dim = dims.pop() if len(dims) == 1 else None
    if dim is None or any(t.shape[dim] != shape[dim] for t in operands):
        return None
    return dim


def _united(trace: Tracer, known: Tensor, new: Tensor) -> Tensor:
    trace.ledger.unite(known, new)
    shape = known.shape
    known, new = narrow_repeats(known, new)
    # Neutral places, such as zero padding in a shortcut, take the id of what is added to them.
    return torch.where(known == NEUTRAL, new, known).expand(shape)


def neutral(trace: Tracer, call: Call) -> None:
    """A tensor of equal values has no channels of its own."""
    for out in call.outputs:
        trace.assign(out, torch.zeros((), dtype=torch.long).expand(out.shape))


def write(trace: Tracer, call: Call) -> None:
    """Channels written into by index must all stay."""
    for tensor in call.tensors:
        if trace.knows(tensor):
            trace.ledger.freeze(trace.ids(tensor), f"{trace.where(call)} writes into them by index")


def transpose_property(trace: Tracer, call: Call) -> None:
    """``x.T`` and ``x.mT``."""
    ids = trace.ids(call.subject)
    trace.assign(call.out, ids.mT if ids.dim() > 1 else ids)


def _as_ids(trace: Tracer, value: Any) -> Any:
    if isinstance(value, Tensor):
        # Indices move channels and are none themselves.
        return trace.ids(value) if value.is_floating_point() else value.cpu()
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)([_as_ids(trace, item) for item in value])
    if isinstance(value, dict):
        return {k: _as_ids(trace, v) for k, v in value.items()}
    return value


def _varies(ids: Tensor, dim: int) -> bool:
    (narrow,) = narrow_repeats(ids)
    return narrow.shape[dim] > 1 and not bool((narrow == narrow.narrow(dim, 0, 1)).all())


def _respread(ids: Tensor) -> Tensor:
    """The same ids, with equal neighbours along a dimension stored once."""
    (narrow,) = narrow_repeats(ids)
    for dim in range(ids.dim()):
        if narrow.shape[dim] > 1:
            # A copy of the ids of a large image would cost as much as the image; a stride of 0
            # costs nothing.
            first = narrow.narrow(dim, 0, 1)
            if bool((narrow == first).all()):
                narrow = first
    return narrow.expand(ids.shape)


def _resized(ids: Tensor, dim: int, size: int) -> tuple[int, ...]:
    shape = list(ids.shape)
    shape[dim] = size
    return tuple(shape)


def _reduced_dims(call: Call, rank: int) -> list[int]:
    dim = call.arg(1, "dim", call.kwargs.get("axis"))
    if isinstance(dim, int) and not isinstance(dim, bool):
        return [dim % rank] if rank else []
    if isinstance(dim, (tuple, list)) and dim:
        return [d % rank for d in dim]
    return list(range(rank))


def _aligned(ids: Tensor, shape: torch.Size) -> Tensor:
    return ids.expand(shape) if ids.dim() <= len(shape) else ids.reshape(shape)


def _is_spread_over_channels(
    trace: Tracer, operand: Tensor, shape: torch.Size, others: list[Tensor]
) -> bool:
    """Whether broadcasting lays one of the operand's channels over several of another's."""
    missing = len(shape) - operand.dim()
    sizes = [1] * missing + list(operand.shape)
    for dim, (size, full) in enumerate(zip(sizes, shape, strict=True)):
        if size == full:
            continue
        for other in others:
            if _varies(trace.ledger.canonical(other), dim):
                return True
    return False


_SAME = (
    "contiguous clone detach to float half bfloat16 double type requires_grad cpu cuda "
    "alias fill empty_like zeros_like ones_like full_like rand_like randn_like"
)
_RESHAPE = "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel"
_MOVE = (
    "permute transpose swapaxes swapdims movedim moveaxis t adjoint "
    "stack hstack vstack unbind select expand expand_as broadcast_to repeat "
    "tile roll flip repeat_interleave index_select take_along_dim pixel_shuffle "
    "pixel_unshuffle channel_shuffle native_channel_shuffle meshgrid broadcast_tensors"
)
_SPLIT = "split chunk split_with_sizes tensor_split"
_REDUCE = "mean sum amax amin max min var std prod logsumexp median any all argmax argmin"
_OVER_DIM = "softmax log_softmax softmin cumsum cumprod"
_ELEMENTWISE = (
    "add sub mul div truediv true_divide floordiv pow neg abs exp exp2 log log2 log10 log1p expm1 "
    "sqrt rsqrt square reciprocal clamp clip clamp_min clamp_max maximum minimum fmax fmin where "
    "lerp addcmul addcdiv sign sgn erf sin cos tan atan floor ceil round trunc remainder fmod "
    "nan_to_num masked_fill hypot subtract multiply divide negative absolute rsub "
    "relu relu6 leaky_relu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh "
    "sigmoid tanh softplus softsign logsigmoid hardshrink softshrink tanhshrink threshold logit "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout "
    "gt lt ge le eq ne logical_and logical_or logical_not logical_xor isnan isinf isfinite"
)
_NEUTRAL = "zeros ones full empty new_zeros new_ones new_full new_empty"
_POOLS = (
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool lp_pool fractional_max_pool max_unpool"
)

TENSOR_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_SAME.split(), same),
    **dict.fromkeys(_RESHAPE.split(), reshape),
    **dict.fromkeys(_MOVE.split(), move),
    **dict.fromkeys(("cat", "concat", "concatenate"), join),
    **dict.fromkeys(_SPLIT.split(), split),
    **dict.fromkeys(_REDUCE.split(), reduce),
    **dict.fromkeys(_OVER_DIM.split(), over_dim),
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(_NEUTRAL.split(), neutral),
    **{
        f"{name}{d}d{suffix}": pool(spatial=d)
        for name in _POOLS.split()
        for d in (1, 2, 3)
        for suffix in ("", "_with_indices")
    },
    **dict.fromkeys(("interpolate", "upsample", "grid_sample"), pool(spatial=None)),
    "getitem": take,
    "narrow": take_range,
    "glu": gated_linear,
    "roi_align": region_pool,
    "roi_pool": region_pool,
    "pad": pad,
    "setitem": write,
    "property T": transpose_property,
    "property mT": transpose_property,
    "property data": same,
}
