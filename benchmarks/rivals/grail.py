r"""GRAIL: kept channels give back the others by ridge regression.

Tang, Wang, Thiele and Saukh, *GRAIL: Post-hoc Compensation by Linear Reconstruction for Compressed
Networks*, arXiv 2602.23795, 2026. With ``H`` (rows, channels) what a layer reads in the original
network on unlabelled samples, one row for every pixel, and ``P`` the channels that stay, the map

.. math:: B = \arg\min_B |H - H_P B'|^2 + \lambda |B|^2 = G_{:P} (G_{PP} + \lambda I)^{-1},
          \quad G = H'H

is taken into the weights, ``W' = W B``. It works on channels, not on the inputs of a kernel: every
tap of a kernel gets the same map. ``lambda`` is 1e-3 times the mean of the diagonal of ``G_PP``, as
in the authors' code for ResNets, and as there the batch norms may be estimated again afterwards.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration.hooks import evaluating, listening
from benchmarks.rivals.channels import selections, sites_of, write_

RIDGE = 1e-3
_BATCH = 128


def compensation(gram: Tensor, kept: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """``B`` (channels, kept), from the Gram matrix (channels, channels) of what a layer reads."""
    inner = gram[kept][:, kept]
    scale = inner.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    ridged = inner + ridge * scale * torch.eye(len(kept), dtype=gram.dtype)
    found: Tensor = torch.linalg.solve(ridged, gram[kept]).mT
    return found


def grams_of(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, Tensor]:
    """Gram matrices (channels, channels) of what layers read, summed over images and pixels."""
    grams: dict[str, Tensor] = {}

    def add(name: str, _layer: nn.Module, x: Tensor) -> None:
        rows = x.movedim(1, -1).flatten(0, -2).double()
        grams[name] = grams.get(name, 0) + rows.mT @ rows

    with evaluating(model), listening(layers, before=add):
        for batch in images.split(_BATCH):
            model(batch)
    return grams


def compensated(graph: ChannelGraph, kept: Mapping[str, Tensor], images: Tensor) -> nn.Module:
    """The compact network with all layers compensated."""
    sites = [site for name, site in sites_of(graph).items() if name in kept]
    layers = {name: reader for site in sites for name, reader in site.readers.items()}
    grams = grams_of(graph.model, layers, images)
    reads = {
        name: compensation(grams[name], kept[site.name]) for site in sites for name in site.readers
    }
    compact = graph.compact(kept)
    write_(compact, graph.model, makes=selections(graph, kept), reads=reads)
    return compact
