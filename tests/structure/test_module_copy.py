import copy

import pytest
import torch
from structure.networks import NETWORKS, build
from torch import Tensor, nn

from amc_env.structure.module_copy import Template, copy_module


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_copy_is_what_deepcopy_makes(name: str) -> None:
    model, x = build(NETWORKS, name)
    twin, expected = copy_module(model, {}), copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(x), expected(x))
    assert repr(twin) == repr(expected)
    for key, tensor in tensors(twin).items():
        assert type(tensor) is type(tensors(expected)[key])
        assert tensor.data_ptr() != tensors(model)[key].data_ptr()


def test_nothing_mutable_is_shared() -> None:
    model = nn.Linear(2, 2)
    model.settings = {"deep": [1, 2]}
    model.extra = [torch.zeros(2)]
    model.plain = torch.zeros(2)
    twin = copy_module(model, {})
    twin.settings["deep"].append(3)
    twin.extra[0].add_(1)
    twin.plain.add_(1)
    twin.register_forward_hook(lambda *_: None)
    assert model.settings == {"deep": [1, 2]}
    assert model.extra[0].tolist() == [0, 0]
    assert model.plain.tolist() == [0, 0]
    assert not model._forward_hooks


def test_references_between_modules_point_into_the_copy() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.order = [model[1], model[0]]
    model[1].weight = model[0].weight
    twin = copy_module(model, {})
    assert twin.order[0] is twin[1]
    assert twin[1].weight is twin[0].weight
    assert twin[0].weight is not model[0].weight


def test_a_module_that_copies_itself_is_asked_to() -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
            return Own(3, 3)

    assert copy_module(nn.Sequential(Own(2, 2)), {})[0].in_features == 3


def test_copies_of_one_template_share_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model.settings = {"deep": [1, 2]}
    template = Template(model)
    first = template.copy({})
    first.settings["deep"].append(3)
    first[1].momentum = 0.5
    first[0].register_forward_hook(lambda *_: None)
    with torch.no_grad():
        first[1].running_mean.add_(1)
    second = template.copy({})
    assert second.settings == {"deep": [1, 2]}
    assert second[1].momentum == model[1].momentum
    assert not second[0]._forward_hooks
    assert torch.equal(second[1].running_mean, model[1].running_mean)
    assert second[0].weight.data_ptr() != model[0].weight.data_ptr()
