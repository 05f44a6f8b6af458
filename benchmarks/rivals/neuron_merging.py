r"""Neuron merging: each filter that goes is taken for a multiple of one that stays.

Kim, Kim, Park and Jeon, *Neuron Merging: Compensating for Pruned Neurons*, NeurIPS 2020, algorithm
3 for batch norms. If a filter that goes were ``s`` times one that stays, then behind their norms
(weight ``g``, bias ``b``, mean ``m``, deviation ``d``; 1 stays, 2 goes)

.. math:: y_2 = S y_1 + B, \quad S = s \frac{g_2 d_1}{g_1 d_2}, \quad
          B = \frac{g_2}{d_2} \left(s \left(m_1 - \frac{d_1 b_1}{g_1}\right) - m_2\right) + b_2

A ReLU lets a factor ``S > 0`` pass, so the layer that reads both may add ``S`` times its weights of
the second channel to those of the first. ``s`` is the ratio of norms. Of the filters that stay the
one with the smallest ``share * (1 - cosine) + (1 - share) * |B| / S`` is taken, the second term
scaled to [0, 1] over these filters. A filter whose cosine with it is below a threshold is dropped
instead. No data is needed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from benchmarks.rivals.channels import Statistics, selections, sites_of, write_

# As far as known, what its authors used for VGG; not checked against the text of the paper.
COSINE_SHARE = 0.85
THRESHOLD = 0.1


def merging(filters: Tensor, norm: Statistics, kept: Tensor) -> Tensor:
    """``Z`` (channels, kept): how each channel behind norm and ReLU follows from the kept ones."""
    norms = filters.norm(dim=1).clamp_min(torch.finfo(filters.dtype).tiny)
    cosines = (filters / norms[:, None]) @ (filters[kept] / norms[kept, None]).mT
    scales, shifts = _through_norms(norms[:, None] / norms[kept], norm, kept)
    is_possible = (scales > 0) & scales.isfinite() & shifts.isfinite()
    distances = _unit(torch.where(is_possible, shifts.abs() / scales, torch.nan))
    scores = COSINE_SHARE * (1 - cosines) + (1 - COSINE_SHARE) * distances
    best = scores.masked_fill(~is_possible, torch.inf).argmin(1, keepdim=True)
    is_near = is_possible.gather(1, best) & (cosines.gather(1, best) >= THRESHOLD)
    merged = torch.zeros_like(scales)
    merged.scatter_(1, best, torch.where(is_near, scales.gather(1, best), 0.0))
    merged[kept] = torch.eye(len(kept), dtype=merged.dtype)
    return merged


def merged(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> nn.Module:
    """The compact network with the filters that went merged into the layers that read them."""
    sites = [site for name, site in sites_of(graph).items() if name in kept]
    maps = {site.name: merging(site.filters, site.statistics, kept[site.name]) for site in sites}
    reads = {reader: maps[site.name] for site in sites for reader in site.readers}
    compact = graph.compact(kept)
    write_(compact, graph.model, makes=selections(graph, kept), reads=reads)
    return compact


def _through_norms(ratios: Tensor, norm: Statistics, kept: Tensor) -> tuple[Tensor, Tensor]:
    """``S`` and ``B``, both (channels, kept), for filters whose norms have these ratios."""
    gain = (norm.weight / norm.deviation)[:, None]
    undone = norm.deviation[kept] / norm.weight[kept]
    scales = ratios * gain * undone
    aligned = ratios * (norm.mean[kept] - undone * norm.bias[kept])
    shifts = gain * (aligned - norm.mean[:, None]) + norm.bias[:, None]
    return scales, shifts


def _unit(distances: Tensor) -> Tensor:
    """Each row moved and scaled to [0, 1]; NaN, which marks a filter out of question, aside."""
    known = distances.nan_to_num(nan=torch.inf)
    low = known.min(1, keepdim=True).values
    high = distances.nan_to_num(nan=-torch.inf).max(1, keepdim=True).values
    return (known - low) / (high - low).clamp_min(torch.finfo(distances.dtype).tiny)
