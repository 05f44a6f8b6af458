"""Batch norms that get the statistics of a pruned network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc_env.batches import Batch, call
from amc_env.calibration.hooks import evaluating, listening
from amc_env.devices import with_float64
from amc_env.precision import Format

# How far outputs of a norm may be apart, relative to the largest, to count as the same.
_TOLERANCE = 1e-3


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


@torch.no_grad()
def rebase_norms_(compact: nn.Module, batches: Sequence[Batch]) -> None:
    r"""Give batch norms the statistics of what reaches them; the network computes what it did.

    A repaired layer varies less than the original's, by whose statistics its norm divides still. In
    training mode the norm divides by those of its own input, so the network would compute something
    else, and a training would begin by unlearning it. With the mean :math:`m` and the variance
    :math:`v` of its input in place of :math:`m_0` and :math:`v_0`, and

    .. math:: \gamma = \gamma_0 \sqrt{\frac{v + \epsilon}{v_0 + \epsilon}}, \quad
              \beta = \beta_0 + \gamma_0 \frac{m - m_0}{\sqrt{v_0 + \epsilon}}

    it computes the same in evaluation mode, and nearly so in training mode.

    Left as they are: norms without weights of their own, those that no sample reaches, and those
    that would compute something else, because they are no plain batch norms.
    """
    norms = _own_norms(compact)
    found: dict[str, _Inputs] = {}

    def add(name: str, _: nn.Module, x: Tensor) -> None:
        if name not in found:
            found[name] = _Inputs(first=x[:1].clone())
        found[name].add(x)

    with evaluating(compact):
        with listening(norms, before=add):
            for batch in batches:
                call(compact, Format().arrange(batch))
        for name, inputs in found.items():
            inputs.rebase_(norms[name])


@dataclass(kw_only=True, eq=False)
class _Inputs:
    """The sums of all inputs of a norm by channel, and its input of the first sample."""

    first: Tensor
    rows: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add a batch, (samples, channels, ...)."""
        rows = x.numel() // x.shape[1]
        others = [d for d in range(x.dim()) if d != 1]
        variance, mean = map(_exact, torch.var_mean(x, others, correction=0))
        self.rows += rows
        self.total = self.total + rows * mean
        self.squares = self.squares + rows * (variance + mean.square())

    def rebase_(self, norm: _BatchNorm) -> None:
        """Give the norm these statistics, unless it computes something else then."""
        before, wanted = [t.clone() for t in _tensors_of(norm)], norm(self.first)
        weight, bias, mean, variance = map(_exact, before)
        own_mean = torch.as_tensor(self.total / self.rows)
        own_variance = (self.squares / self.rows - own_mean.square()).clamp(min=0.0)
        scale = (variance + norm.eps).sqrt()
        after = (
            weight * (own_variance + norm.eps).sqrt() / scale,
            bias + weight * (own_mean - mean) / scale,
            own_mean,
            own_variance,
        )
        _write_(norm, after)
        if not (norm(self.first) - wanted).abs().max() <= _TOLERANCE * wanted.abs().max():
            _write_(norm, before)


def _own_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms with running statistics, and weights that no other module has."""
    modules = list(model.modules())
    owners = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            own = dict(module.named_parameters(recurse=False))
            # A weight that is computed from others is no parameter of the norm.
            if own.keys() == {"weight", "bias"} and all(owners[id(p)] == 1 for p in own.values()):
                found[name] = module
    return found


def _exact(tensor: Tensor) -> Tensor:
    return with_float64(tensor).double()


def _tensors_of(norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var  # type: ignore[return-value]


def _write_(norm: _BatchNorm, values: Sequence[Tensor]) -> None:
    for tensor, value in zip(_tensors_of(norm), values, strict=True):
        # Converted before it is copied, as the norm's device may have no float64.
        tensor.copy_(value.to(tensor.dtype))


def _running_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
