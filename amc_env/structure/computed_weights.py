"""What convolutions and linear layers do to channel ids whose weight no parameter is."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from amc_env.structure.records import LayerUse
from amc_env.structure.tracer import Call, Tracer

_COMPUTED_WEIGHT = (
    "{where} computes its weight on the way (by weight or spectral norm, weight standardisation, "
    "fake quantisation or from another layer); store the weight itself, for example remove the "
    "parametrization, to make these channels prunable"
)
_NOTHING = torch.zeros(0, dtype=torch.long)


def follow_computed_filter(trace: Tracer, call: Call, use: LayerUse, channel_dim: int) -> None:
    """Follow a convolution whose weight no parameter is: a blur, or one that is not known."""
    weight, width = call.arg(1, "weight"), call.out.shape[channel_dim]
    is_depthwise = use.groups == width == call.subject.shape[channel_dim]
    if is_depthwise and trace.settle(call, partial(_is_repeated_filter, trace, weight)):
        # One filter for all channels, as of a blur pool, which does to each what pooling does. Like
        # a pooling it is no layer that costs.
        inputs = trace.axis(call.subject, channel_dim)
        trace.spread(call.out, inputs, channel_dim)
    else:
        keep_around_computed_weight(trace, call, use, channel_dim)


def keep_around_computed_weight(trace: Tracer, call: Call, use: LayerUse, channel_dim: int) -> None:
    """Count a layer whose weight no parameter is, and keep all channels around it."""
    trace.freeze_inputs(call, _COMPUTED_WEIGHT.format(where=trace.where(call)))
    # What a weight is computed from is not known, so all parameters of its module count as its own.
    outputs = trace.axis(call.out, channel_dim)
    module = trace.modules[trace.current_module()[0]]
    owners = [
        module,
        *(m for name, m in module.named_modules() if name.startswith("parametrizations")),
    ]
    names = [trace.owner(p) for m in owners for p in m.parameters(recurse=False)]
    tensors = tuple(dict.fromkeys(name for name in names if name is not None))
    trace.ledger.layer(replace(use, tensors=tensors), _NOTHING, outputs)


def _is_repeated_filter(trace: Tracer, weight: Tensor) -> bool:
    """Whether a weight is one filter of the model, repeated for every channel."""
    if not trace.knows(weight):
        return False
    ids = trace.ledger.canonical(trace.ids(weight))
    entries = ids[0].unique()
    # What was computed is one constant; the entries of a filter are told apart.
    return len(entries) == ids[0].numel() > 1 and bool((ids == ids[:1]).all())
