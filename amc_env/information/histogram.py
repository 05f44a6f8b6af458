r"""Entropy of feature maps that ignores where values stand, for comparison with ``aura``.

Musat and Andonie, "Spatial Aura Entropy" (section 3) and "Entropy Minimization", both 2023, argue
that Shannon's univariate entropy misses the spatial order of a map. This is that entropy, with the
same bins and the same dead channels, so that a comparison changes nothing but the measure.
"""

from math import log2

import torch
from torch import Tensor

from amc_env.information.aura import Dead, Scope, channel_symbols, live_channels
from amc_env.information.counts import entropy_of_symbols


def histogram_entropy(x: Tensor, *, bins: int = 256, scope: Scope = "channel") -> Tensor:
    r"""Entropy of each channel's histogram as a share of the greatest possible, (C,), from 0 to 1.

    .. math:: H = -\frac{1}{\log b} \sum_{g=1}^{b} p_g \log p_g

    ``p_g`` is the share of the pixels of a channel, of all samples of ``x`` (N, C, H, W), in bin
    ``g`` of ``b``. Chosen here: one bin has the entropy 0.

    Raises:
        ValueError: ``x`` is no batch of maps, ``bins`` is below 1 or the scope is unknown.
    """
    channels = list(channel_symbols(x, bins=bins, scope=scope))
    greatest = log2(bins) if bins > 1 else 1.0
    values = [entropy_of_symbols(symbols.view(1, -1), bins=bins) for symbols in channels]
    return (torch.cat(values) / greatest).to(x.dtype)


def layer_histogram_entropy(
    x: Tensor, *, bins: int = 256, scope: Scope = "channel", dead: Dead = "constant"
) -> float:
    """Mean ``histogram_entropy`` of the live channels; NaN where none is alive."""
    live = live_channels(x, dead=dead)
    return float(histogram_entropy(x, bins=bins, scope=scope)[live].double().mean())
