"""What operations with weights do to channel ids: convolutions, linear layers, norms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import Tensor, nn

from amc_env.structure.channel_ids import NEUTRAL, along
from amc_env.structure.computed_weights import (
    follow_computed_filter,
    keep_around_computed_weight,
)
from amc_env.structure.records import LayerUse
from amc_env.structure.stored_sizes import store_count
from amc_env.structure.tracer import Call, Handler, Tracer


def convolution(*, spatial: int, transposed: bool) -> Handler:
    """A handler for convolutions over ``spatial`` dimensions."""

    def handle(trace: Tracer, call: Call) -> None:
        weight: Tensor = call.arg(1, "weight")
        name = trace.owner(weight)
        x, out = call.subject, call.out
        channel_dim = -spatial - 1
        groups = int(call.arg(6, "groups", 1))
        width = out.shape[channel_dim]
        grid = x if transposed else out
        use = partial(
            LayerUse,
            name=layer_name(trace, call, name),
            weight=name,
            shape=tuple(weight.shape),
            output_dim=int(transposed),
            groups=groups,
            stride=_greatest(call.arg(3, "stride", 1)),
            uses=grid.numel() // (grid.shape[channel_dim] * trace.batch),
        )
        kind = "conv_transpose" if transposed else "conv"
        if name is None:
            follow_computed_filter(trace, call, use(kind=kind, tensors=()), channel_dim)
            return
        inputs = trace.axis(x, channel_dim)
        # A grouped convolution cut to one channel a group has the shape of a depthwise one.
        if groups > 1 and groups == inputs.numel() and not trace.ledger.knows_axis(name, 1):
            each = width // len(inputs)
            outputs = inputs if each == 1 else inputs.repeat_interleave(each)
            trace.ledger.consume(name, 0, inputs if transposed else outputs)
            kind = "depthwise"
        else:
            outputs = _dense(trace, name, inputs, (width, groups), transposed=transposed)
        counts = {"in_channels": inputs, "out_channels": outputs}
        if kind == "depthwise":
            counts["groups"] = inputs
            store_count(trace, call.arg(6, "groups", 1), inputs)
        store_counts(trace, name, _CONVOLUTIONS, counts)
        bias = _follow_vector(trace, call.arg(2, "bias"), outputs)
        trace.ledger.layer(use(kind=kind, tensors=(name, *bias)), inputs, outputs)
        trace.spread(out, outputs, channel_dim)

    return handle


def linear(trace: Tracer, call: Call) -> None:
    """Follow a linear layer over the last dimension."""
    found = _matrix(trace, call.arg(1, "weight"))
    if found is None:
        weight: Tensor = call.arg(1, "weight")
        use = LayerUse(
            name=layer_name(trace, call, None),
            kind="linear",
            weight=None,
            tensors=(),
            shape=tuple(weight.shape),
            uses=prod(call.out.shape[:-1]) // trace.batch,
        )
        keep_around_computed_weight(trace, call, use, -1)
        return
    name, is_transposed = found
    _follow_matrix(
        trace,
        call,
        _Product(weight=name, output_dim=int(is_transposed), source=call.subject),
        bias=call.arg(2, "bias"),
    )


def matmul(trace: Tracer, call: Call) -> None:
    """Follow a product with a parameter, which is a linear layer; any other mixes channels."""
    first, second = call.subject, call.arg(1, "other", call.arg(1, "mat2"))
    if first.dim() > 1 and (found := _matrix(trace, second)):
        product = _Product(weight=found[0], output_dim=int(not found[1]), source=first)
    elif second.dim() > 1 and (found := _matrix(trace, first)):
        product = _Product(
            weight=found[0], output_dim=int(found[1]), source=second, source_dim=-2, out_dim=-2
        )
    else:
        _mix(trace, call)
        return
    _follow_matrix(trace, call, product)


def einsum(trace: Tracer, call: Call) -> None:
    """Follow a sum over one axis of a matrix that is a parameter: a linear layer in other words."""
    product = _einsum_product(trace, call)
    if product is None:
        _mix(trace, call)
        return
    _follow_matrix(trace, call, product)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Product:
    """A product of a tensor with a matrix that is a parameter of the model.

    Attributes:
        weight: Name of the matrix.
        output_dim: The axis of the matrix that the outputs lie along.
        source: The other factor.
        source_dim: The axis of the other factor that is summed over, counted from the end.
        out_dim: The axis of the result that the outputs lie along, counted from the end.
    """

    weight: str
    output_dim: int
    source: Tensor
    source_dim: int = -1
    out_dim: int = -1


def _follow_matrix(trace: Tracer, call: Call, product: _Product, *, bias: object = None) -> None:
    out, name = call.out, product.weight
    inputs = trace.axis(product.source, product.source_dim)
    trace.ledger.consume(name, 1 - product.output_dim, inputs)
    width = out.shape[product.out_dim]
    outputs = trace.ledger.produce(name, product.output_dim, width)
    store_counts(trace, name, (nn.Linear,), {"in_features": inputs, "out_features": outputs})
    shape = [width, width]
    shape[1 - product.output_dim] = len(inputs)
    use = LayerUse(
        name=layer_name(trace, call, name),
        kind="linear",
        weight=name,
        tensors=(name, *_follow_vector(trace, bias, outputs)),
        shape=tuple(shape),
        output_dim=product.output_dim,
        uses=out.numel() // (width * trace.batch),
    )
    trace.ledger.layer(use, inputs, outputs)
    trace.spread(out, outputs, product.out_dim)


def _matrix(trace: Tracer, tensor: object) -> tuple[str, bool] | None:
    """Name of the parameter that a matrix is, and whether it is transposed; None if it is none."""
    if not isinstance(tensor, Tensor) or tensor.dim() != 2:
        return None
    name = trace.owner(tensor)
    if name is not None:
        return name, False
    base = tensor._base  # noqa: SLF001 (torch has no other way to ask what a view shows)
    name = trace.owner(base)
    if base is None or name is None or base.dim() != 2:
        return None
    # A view of a matrix with its strides exchanged, as W.t() or W.T, is the matrix itself.
    if tensor.shape != base.shape[::-1] or tensor.stride() != base.stride()[::-1]:
        return None
    # A vector shows no direction; but a matrix that a cut has made a vector was known before.
    is_clear = min(base.shape) > 1 or trace.ledger.knows_axis(name, 0)
    return (name, True) if is_clear else None


def _einsum_product(trace: Tracer, call: Call) -> _Product | None:
    """The product that an einsum of two factors is, if one of them is a matrix of the model."""
    equation, *factors = call.args
    if len(factors) == 1 and isinstance(factors[0], (list, tuple)):
        factors = list(factors[0])
    if not isinstance(equation, str) or "->" not in equation or len(factors) != 2:
        return None
    terms, result = equation.replace(" ", "").split("->")
    # One letter stands for any number of leading axes, so positions are counted from the end.
    result = result.replace("...", "*")
    letters = terms.replace("...", "*").split(",")
    for own, other in ((1, 0), (0, 1)):
        found = _matrix(trace, factors[own])
        shared = [letter for letter in letters[own] if letter in letters[other]]
        new = [letter for letter in letters[own] if letter not in letters[other]]
        if found is None or len(shared) != 1 or len(new) != 1:
            continue
        # A plain linear layer leaves all other axes as they are; anything else sums or repeats
        # channels.
        rest = letters[other].replace(shared[0], "")
        if sorted(result) != sorted(rest + new[0]) or "*" in letters[other][1:] + result[1:]:
            continue
        return _Product(
            weight=found[0],
            output_dim=letters[own].index(new[0]) ^ int(found[1]),
            source=factors[other],
            source_dim=letters[other].index(shared[0]) - len(letters[other]),
            out_dim=result.index(new[0]) - len(result),
        )
    return None


def _mix(trace: Tracer, call: Call) -> None:
    if any(trace.knows(t) for t in call.tensors):
        trace.freeze_inputs(call, f"{trace.where(call)} is not known to keep channels apart")


def norm(kinds: tuple[type[nn.Module], ...], attribute: str) -> Handler:
    """A handler for norms that treat each channel alone, and for PReLU.

    Modules of ``kinds`` store their number of channels under ``attribute``.
    """

    def handle(trace: Tracer, call: Call) -> None:
        x = call.subject
        dim = 1 if x.dim() > 1 else 0
        ids = trace.axis(x, dim)
        for tensor in call.tensors[1:]:
            _follow_vector(trace, tensor, ids)
        store_counts(trace, None, kinds, {attribute: ids})
        trace.spread(call.out, ids, dim)

    return handle


def group_norm(trace: Tracer, call: Call) -> None:
    """Follow a group norm: its groups must stay equally wide."""
    x = call.subject
    groups = int(call.arg(1, "num_groups"))
    ids = trace.axis(x, 1)
    attributes = {"num_channels": ids}
    if groups == len(ids):
        attributes["num_groups"] = ids
    # A cut takes the same number of channels from each part, or the parts would be unequal.
    elif groups > 1:
        _tie_parts(trace, ids, groups)
    if groups != len(ids):
        trace.ledger.channel_norm(ids)
    for tensor in call.tensors[1:]:
        _follow_vector(trace, tensor, ids)
    store_counts(trace, None, (nn.GroupNorm,), attributes)
    trace.spread(call.out, ids, 1)


def layer_norm(trace: Tracer, call: Call) -> None:
    """Follow a norm over the last dimensions, of which channels may lie along one."""
    x, ids = call.subject, trace.ids(call.subject)
    normalized = len(call.arg(1, "normalized_shape"))
    first = x.dim() - normalized
    dim = _varying_dim(trace, ids, range(first, x.dim()))
    if dim is not None:
        vector = trace.axis_ids(ids, dim)
        trace.ledger.channel_norm(vector)
        for tensor in call.tensors[1:]:
            name = trace.owner(tensor)
            if name is not None:
                trace.ledger.consume(name, dim - first, vector)
        if normalized == 1:
            store_counts(trace, None, (nn.LayerNorm, nn.RMSNorm), {"normalized_shape": vector})
        else:
            trace.ledger.freeze(vector, f"{trace.where(call)} normalises over several dimensions")
        ids = along(vector, tuple(x.shape), dim)
    trace.assign(call.out, ids)


def layer_name(trace: Tracer, call: Call, weight: str | None) -> str:
    """The module that owns a weight, a bare parameter's own name, or who computes the weight."""
    if weight is None:
        return trace.current_module()[0] or call.name
    return weight.removesuffix(".weight")


def _greatest(value: int | tuple[int, ...] | list[int]) -> int:
    return int(value) if isinstance(value, int) else max(value)


def _dense(
    trace: Tracer, name: str, inputs: Tensor, shape: tuple[int, int], *, transposed: bool
) -> Tensor:
    width, groups = shape
    if groups > 1:
        _tie_parts(trace, inputs, groups)
    if transposed:
        trace.ledger.consume(name, 0, inputs)
        part = trace.ledger.produce(name, 1, width // groups)
        return part.repeat(groups)
    trace.ledger.consume(name, 1, inputs if groups == 1 else inputs[: len(inputs) // groups])
    outputs = trace.ledger.produce(name, 0, width)
    if groups > 1:
        _tie_parts(trace, outputs, groups)
    return outputs


def _tie_parts(trace: Tracer, ids: Tensor, parts: int) -> None:
    table = ids.view(parts, -1)
    trace.ledger.unite(table, table[:1])


def _follow_vector(trace: Tracer, tensor: object, ids: Tensor) -> tuple[str, ...]:
    name = trace.owner(tensor)
    if not isinstance(tensor, Tensor) or name is None:
        return ()
    if tensor.dim() == 1 and tensor.numel() == ids.numel():
        trace.ledger.consume(name, 0, ids)
    return (name,)


def store_counts(
    trace: Tracer, tensor: str | None, kinds: tuple[type[nn.Module], ...], counts: dict[str, Tensor]
) -> None:
    """Note numbers of channels that a module of these kinds stores, by attribute.

    It is the module that owns the tensor of this name, or the one that is running for None.
    """
    name = trace.current_module()[0] if tensor is None else tensor.rpartition(".")[0]
    module = trace.modules[name]
    if isinstance(module, kinds):
        for attribute, ids in counts.items():
            if getattr(module, attribute) in (ids.numel(), (ids.numel(),)):
                trace.ledger.attribute(name, attribute, ids)


def _varying_dim(trace: Tracer, ids: Tensor, dims: range) -> int | None:
    known = trace.ledger.canonical(ids)
    for dim in dims:
        if known.stride(dim) and not (known == known.narrow(dim, 0, 1)).all():
            return dim
    # A single channel varies nowhere; it lies along the last dimension.
    return None if (known == NEUTRAL).all() else dims[-1]


_CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
BATCH_NORMS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)
INSTANCE_NORMS: tuple[type[nn.Module], ...] = (
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)

LAYER_HANDLERS: dict[str, Callable[[Tracer, Call], None]] = {
    **{f"conv{d}d": convolution(spatial=d, transposed=False) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": convolution(spatial=d, transposed=True) for d in (1, 2, 3)},
    "linear": linear,
    "matmul": matmul,
    "mm": matmul,
    "einsum": einsum,
    "batch_norm": norm((*BATCH_NORMS, *INSTANCE_NORMS), "num_features"),
    "instance_norm": norm((*BATCH_NORMS, *INSTANCE_NORMS), "num_features"),
    "prelu": norm((nn.PReLU,), "num_parameters"),
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
}
