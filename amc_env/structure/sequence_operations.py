"""What operations over sequences do to channel ids: attention, and recurrent layers."""

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from amc_env.structure.layer_operations import layer_name, store_counts
from amc_env.structure.records import LayerUse
from amc_env.structure.tracer import Call, Tracer

_NOTHING = torch.zeros(0, dtype=torch.long)
# Arguments of a recurrent layer on a padded batch; a packed one has its lengths among them.
_PADDED = 9


def attention(trace: Tracer, call: Call) -> None:
    """Keep all channels around an attention, and count its projections."""
    # Heads have a fixed width, so that cutting within them would need a rule for every variant.
    tokens = prod(call.subject.shape[:-1])
    for tensor in call.tensors:
        name = trace.owner(tensor)
        if name is not None and tensor.dim() == 2:
            use = LayerUse(
                name=layer_name(trace, call, name),
                kind="attention projection",
                weight=name,
                tensors=(name,),
                shape=tuple(tensor.shape),
                uses=tokens // trace.batch,
            )
            trace.ledger.layer(use, _NOTHING, _NOTHING)
    trace.freeze_inputs(call, f"{trace.where(call)} mixes channels in its heads")


def recurrent(trace: Tracer, call: Call) -> None:
    """Follow an LSTM, a GRU or a plain recurrent layer: it reads channels, and keeps its own."""
    _, module = trace.current_module()
    where = trace.where(call)
    if not isinstance(module, nn.RNNBase) or len(call.args) != _PADDED:
        trace.freeze_inputs(call, f"{where} is not known to keep channels apart")
        return
    x, states, weights = call.args[:3]
    inputs = trace.axis(x, -1)
    store_counts(trace, None, (nn.RNNBase,), {"input_size": inputs})
    for weight in weights:
        name = trace.owner(weight)
        if name is None or weight.dim() < 2:
            continue
        reads_inputs = name.rpartition(".")[2] in ("weight_ih_l0", "weight_ih_l0_reverse")
        if reads_inputs:
            trace.ledger.consume(name, 1, inputs)
        use = LayerUse(
            name=name,
            kind="recurrent",
            weight=name,
            tensors=(name,),
            shape=tuple(weight.shape),
            uses=prod(x.shape[:-1]) // trace.batch,
        )
        trace.ledger.layer(use, inputs if reads_inputs else _NOTHING, _NOTHING)
    reason = f"{where} carries its states from step to step"
    for state in states if isinstance(states, (tuple, list)) else (states,):
        trace.ledger.freeze(trace.ids(state), reason)
    # Gates are stacked along a weight's outputs, and states return as inputs, so they stay whole.
    for out in call.outputs:
        trace.assign(out, trace.ledger.constant(tuple(out.shape), reason))


SEQUENCE_HANDLERS: dict[str, Callable[[Tracer, Call], None]] = {
    "multi_head_attention_forward": attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
}
