"""What operations with weights do to channel ids: convolutions, linear layers, norms."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from amc_env.structure.channel_ids import NEUTRAL, along
from amc_env.structure.records import LayerUse
from amc_env.structure.tracer import Call, Handler, Tracer

_COMPUTED_WEIGHT = (
    "{where} computes its weight on the way (by weight or spectral norm, weight standardisation, "
    "fake quantisation or from another layer); store the weight itself, for example remove the "
    "parametrization, to make these channels prunable"
)


def convolution(*, spatial: int, transposed: bool) -> Handler:
    """A handler for convolutions over ``spatial`` dimensions."""

    def handle(trace: Tracer, call: Call) -> None:
        weight: Tensor = call.arg(1, "weight")
        name = trace.owner(weight)
        if name is None or weight.dim() != spatial + 2:
            trace.freeze_layer(call, _COMPUTED_WEIGHT.format(where=trace.where(call)))
            return
        x, out = call.subject, call.out
        channel_dim = -spatial - 1
        groups = int(call.arg(6, "groups", 1))
        inputs = trace.axis_ids(trace.ids(x), channel_dim)
        width = out.shape[channel_dim]
        grid = x if transposed else out
        uses = grid.numel() // (grid.shape[channel_dim] * trace.batch)
        # A grouped convolution cut to one channel a group has the shape of a depthwise one.
        if groups > 1 and groups == len(inputs) and not trace.ledger.knows_axis(name, 1):
            outputs = inputs.repeat_interleave(width // len(inputs))
            trace.ledger.consume(name, 0, inputs if transposed else outputs)
            kind = "depthwise"
        else:
            outputs = _dense(trace, name, inputs, (width, groups), transposed=transposed)
            kind = "conv_transpose" if transposed else "conv"
        counts = {"in_channels": inputs, "out_channels": outputs}
        if kind == "depthwise":
            counts["groups"] = inputs
        _store(trace, name, _CONVOLUTIONS, counts)
        bias = _follow_vector(trace, call.arg(2, "bias"), outputs)
        use = LayerUse(
            name=_layer_name(name), kind=kind, weight=name, tensors=(name, *bias), uses=uses
        )
        trace.ledger.layer(use, inputs, outputs)
        trace.assign(out, along(outputs, tuple(out.shape), out.dim() + channel_dim))

    return handle


def linear(trace: Tracer, call: Call) -> None:
    """Follow a linear layer over the last dimension."""
    weight: Tensor = call.arg(1, "weight")
    name = trace.owner(weight)
    if name is None or weight.dim() != 2:
        trace.freeze_layer(call, _COMPUTED_WEIGHT.format(where=trace.where(call)))
        return
    x, out = call.subject, call.out
    inputs = trace.axis_ids(trace.ids(x), -1)
    trace.ledger.consume(name, 1, inputs)
    outputs = trace.ledger.produce(name, 0, out.shape[-1])
    _store(trace, name, (nn.Linear,), {"in_features": inputs, "out_features": outputs})
    bias = _follow_vector(trace, call.arg(2, "bias"), outputs)
    uses = prod(out.shape[:-1]) // trace.batch
    use = LayerUse(
        name=_layer_name(name), kind="linear", weight=name, tensors=(name, *bias), uses=uses
    )
    trace.ledger.layer(use, inputs, outputs)
    trace.assign(out, along(outputs, tuple(out.shape), out.dim() - 1))


def norm(kinds: tuple[type[nn.Module], ...], attribute: str) -> Handler:
    """A handler for norms that treat each channel alone, and for PReLU.

    Modules of ``kinds`` store their number of channels under ``attribute``.
    """

    def handle(trace: Tracer, call: Call) -> None:
        x = call.subject
        dim = 1 if x.dim() > 1 else 0
        ids = trace.axis_ids(trace.ids(x), dim)
        for tensor in call.tensors()[1:]:
            _follow_vector(trace, tensor, ids)
        _store(trace, None, kinds, {attribute: ids})
        trace.assign(call.out, along(ids, tuple(x.shape), dim))

    return handle


def group_norm(trace: Tracer, call: Call) -> None:
    """Follow a group norm: its groups must stay equally wide."""
    x = call.subject
    groups = int(call.arg(1, "num_groups"))
    ids = trace.axis_ids(trace.ids(x), 1)
    attributes = {"num_channels": ids}
    if groups == len(ids):
        attributes["num_groups"] = ids
    elif groups > 1:
        _tie_parts(trace, ids, groups)
    if groups != len(ids):
        trace.ledger.channel_norm(ids)
    for tensor in call.tensors()[1:]:
        _follow_vector(trace, tensor, ids)
    _store(trace, None, (nn.GroupNorm,), attributes)
    trace.assign(call.out, along(ids, tuple(x.shape), 1))


def layer_norm(trace: Tracer, call: Call) -> None:
    """Follow a norm over the last dimensions, of which channels may lie along one."""
    x, ids = call.subject, trace.ids(call.subject)
    normalized = len(call.arg(1, "normalized_shape"))
    first = x.dim() - normalized
    dim = _varying_dim(trace, ids, range(first, x.dim()))
    if dim is not None:
        vector = trace.axis_ids(ids, dim)
        trace.ledger.channel_norm(vector)
        for tensor in call.tensors()[1:]:
            name = trace.owner(tensor)
            if name is not None:
                trace.ledger.consume(name, dim - first, vector)
        if normalized == 1:
            _store(trace, None, (nn.LayerNorm, nn.RMSNorm), {"normalized_shape": vector})
        else:
            trace.ledger.freeze(vector, f"{trace.where(call)} normalises over several dimensions")
        ids = along(vector, tuple(x.shape), dim)
    trace.assign(call.out, ids)


def attention(trace: Tracer, call: Call) -> None:
    """Keep all channels around an attention, and count its projections."""
    tokens = prod(call.subject.shape[:-1])
    for tensor in call.tensors():
        name = trace.owner(tensor)
        if name is not None and tensor.dim() == 2:
            nothing = torch.zeros(0, dtype=torch.long)
            use = LayerUse(
                name=_layer_name(name),
                kind="attention projection",
                weight=name,
                tensors=(name,),
                uses=tokens // trace.batch,
            )
            trace.ledger.layer(use, nothing, nothing)
    trace.freeze_inputs(call, f"{trace.where(call)} mixes channels in its heads")


def _layer_name(weight: str) -> str:
    return weight.removesuffix(".weight") if weight != "weight" else ""


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
    trace.ledger.consume(name, 1, inputs[: len(inputs) // groups])
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
    if tensor.dim() == 1 and tensor.numel() == len(ids):
        trace.ledger.consume(name, 0, ids)
    return (name,)


def _store(
    trace: Tracer, tensor: str | None, kinds: tuple[type[nn.Module], ...], counts: dict[str, Tensor]
) -> None:
    name = trace.current_module()[0] if tensor is None else tensor.rpartition(".")[0]
    module = trace.modules[name]
    if isinstance(module, kinds):
        for attribute, ids in counts.items():
            if getattr(module, attribute) in (len(ids), (len(ids),)):
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
    "batch_norm": norm((*BATCH_NORMS, *INSTANCE_NORMS), "num_features"),
    "instance_norm": norm((*BATCH_NORMS, *INSTANCE_NORMS), "num_features"),
    "prelu": norm((nn.PReLU,), "num_parameters"),
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "multi_head_attention_forward": attention,
}
