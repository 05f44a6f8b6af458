r"""Model folding: clusters of similar channels become one channel each.

Wang, Šikić, Thiele and Saukh, *Forget the Data and Fine-Tuning! Just Fold the Network to Compress*,
ICLR 2025. With ``U`` (channels, clusters) saying which cluster a channel belongs to, the rows
``K`` of all that belongs to a channel are replaced by the means of their clusters,

.. math:: M = (U'U)^{-1} U' K, \quad K \approx U M,

the best there is for these clusters, which k-means chooses. The layer that reads the channels adds
up its weights over each cluster, ``W U``. Behind a batch norm all channels have variance 1, but the
mean of ``n`` of them with mean correlation ``c`` has :math:`(1 + (n - 1) c) / n`. Fold-AR corrects
for that without data: cosines of the filters stand for the correlations. Fold-R estimates the batch
norms again on data.
"""

import warnings
from collections.abc import Mapping

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from amc_env import ChannelGraph
from benchmarks.rivals.channels import Site, sites_of, write_


def clusters_of(rows: Tensor, count: int, *, seed: int) -> Tensor:
    """``U`` (channels, clusters): ones where a channel belongs to a cluster, by k-means."""
    # Where rows are equal, k-means warns and leaves clusters empty. The number of channels is
    # given, so each empty cluster gets a channel of the largest one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(rows.numpy())
    labels = torch.from_numpy(found).long()
    for empty in sorted(set(range(count)) - set(labels.tolist())):
        largest = labels.bincount(minlength=count).argmax()
        labels[(labels == largest).nonzero()[0]] = empty
    return nn.functional.one_hot(labels, count).double()


def means_of(clusters: Tensor) -> Tensor:
    """``(U'U)^-1 U'`` (clusters, channels): takes rows to the means of their clusters."""
    return (clusters / clusters.sum(0)).mT


def folded_variance(filters: Tensor, clusters: Tensor) -> Tensor:
    """The variance (clusters,) of means of channels of variance 1, by the cosines of filters."""
    units = filters / filters.norm(dim=1, keepdim=True).clamp_min(torch.finfo(filters.dtype).tiny)
    # The squared norm of a mean of unit vectors is (n + sum of cosines of pairs) / n^2, which is
    # the (1 + (n - 1) c) / n wanted.
    variance: Tensor = (means_of(clusters) @ units).square().sum(1)
    return variance


def folded(graph: ChannelGraph, counts: Mapping[str, int], *, seed: int) -> nn.Module:
    """The compact network of cluster means, with Fold-AR; the counts are those of clusters."""
    sites = {name: site for name, site in sites_of(graph).items() if name in counts}
    clusters = {
        name: clusters_of(_rows(site), counts[name], seed=seed) for name, site in sites.items()
    }
    compact = graph.compact({name: torch.arange(count) for name, count in counts.items()})
    makes = {}
    for name, site in sites.items():
        # Averages are taken of normalised channels, so the deviations go into the filters.
        makes[name] = means_of(clusters[name]) / site.statistics.deviation
        _fold_norm_(compact.get_submodule(site.norm_name), site, clusters[name])
    reads = {reader: clusters[name] for name, site in sites.items() for reader in site.readers}
    write_(compact, graph.model, makes=makes, reads=reads)
    return compact


def _rows(site: Site) -> Tensor:
    """``K``: the filter, norm parameters and readers' weights of each channel, side by side."""
    norm = site.statistics
    readers = [
        reader.weight.detach().double().transpose(0, 1).flatten(1)
        for reader in site.readers.values()
    ]
    return torch.cat([site.filters, norm.weight[:, None], norm.bias[:, None], *readers], dim=1)


@torch.no_grad()
def _fold_norm_(target: nn.Module, site: Site, clusters: Tensor) -> None:
    norm, means = site.statistics, means_of(clusters)
    variance = folded_variance(site.filters, clusters) - site.norm.eps
    tensors = target.state_dict()
    tensors["running_mean"].copy_(means @ (norm.mean / norm.deviation))
    tensors["running_var"].copy_(variance.clamp_min(0))
    tensors["weight"].copy_(means @ norm.weight)
    tensors["bias"].copy_(means @ norm.bias)
