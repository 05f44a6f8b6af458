"""Batch norms whose statistics are estimated again for a pruned network."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc_env.batches import Batch, call
from amc_env.calibration.hooks import evaluating


def has_running_norms(model: nn.Module) -> bool:
    """Whether a network has batch norms with running statistics, which can be estimated again."""
    return bool(_running_norms(model))


@torch.no_grad()
def reestimate_norms_(compact: nn.Module, batches: Sequence[Batch]) -> None:
    """Replace running means and variances of batch norms by those of ``batches``.

    Each statistic is the plain average over batches, which all have the same weight. Only the batch
    norms run in training mode; modes, momenta and hooks are left as they were, and so are the
    statistics if a batch cannot be run.

    Raises:
        ValueError: There is no sample, or no batch norm that keeps running statistics.
    """
    norms = _running_norms(compact)
    if not norms:
        raise ValueError("the network has no batch norm with running statistics")
    if not batches:
        raise ValueError("there are no calibration samples; give at least one batch")
    before = [({k: v.clone() for k, v in n.named_buffers()}, n.momentum) for n in norms]
    done = False
    with evaluating(compact):
        try:
            for norm in norms:
                norm.reset_running_stats()
                # Without a momentum torch averages over batches; with one, the statistics of the
                # first of few batches would still weigh more than any other.
                norm.momentum = None
                norm.train()
            for batch in batches:
                call(compact, batch)
            done = True
        finally:
            for norm, (buffers, momentum) in zip(norms, before, strict=True):
                norm.momentum = momentum
                for name, buffer in norm.named_buffers():
                    if not done or name == "num_batches_tracked":
                        buffer.copy_(buffers[name])


def _running_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
