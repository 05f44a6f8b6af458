"""Maps over channels, and the groups that they can be written for."""

import pytest
import torch
from rivals.small import WIDTH, chain, graph_of, images
from torch import nn

from amc_env import ChannelGraph
from amc_env.models import build_model
from benchmarks.rivals.channels import Statistics, selections, sites_of, write_


def test_a_site_is_a_convolution_its_norm_and_its_readers() -> None:
    model = chain()
    site = sites_of(graph_of(model))["3"]
    assert site.layer is model[3]
    assert site.norm is model[4]
    assert dict(site.readers) == {"8": model[8]}


def test_statistics_say_what_a_norm_does() -> None:
    norm = chain()[4]
    x = torch.randn(3, WIDTH, 2, 2)
    known = Statistics.of(norm)
    shape = (1, WIDTH, 1, 1)
    normal = (x - known.mean.view(shape)) / known.deviation.view(shape)
    wanted = known.weight.view(shape) * normal + known.bias.view(shape)
    assert torch.allclose(norm(x), wanted.float(), atol=1e-5)


def test_maps_that_only_select_write_what_cutting_leaves() -> None:
    model = chain()
    graph = graph_of(model)
    kept = {"0": torch.tensor([1, 2, 5]), "3": torch.tensor([0, 7])}
    makes = selections(graph, kept)
    compact, plain = graph.compact(kept), graph.compact(kept)
    for layer in (compact[0], compact[3], compact[8]):
        nn.init.zeros_(layer.weight)
    write_(compact, model, makes=makes, reads={"3": makes["0"].mT, "8": makes["3"].mT})
    assert torch.equal(compact(images()), plain(images()))


def test_a_permuted_network_computes_the_same() -> None:
    model = chain()
    graph = graph_of(model)
    permuted = torch.eye(WIDTH, dtype=torch.float64)[torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])]
    twin = graph.compact({})
    write_(twin, model, makes={"0": permuted}, reads={"3": permuted.mT})
    for name, tensor in model[1].state_dict().items():
        if tensor.dim():
            twin[1].state_dict()[name].copy_(permuted.float() @ tensor)
    assert torch.allclose(twin(images()), model(images()), atol=1e-5)


def test_a_residual_stream_is_refused() -> None:
    graph = ChannelGraph(build_model("cifar_resnet20").eval(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="group 'conv1' is no chain of one convolution"):
        sites_of(graph)
