import torch
from structure.networks import NETWORKS, build
from torch import nn

from amc_env.structure.naming import named_modules, named_tensors


def test_names_are_those_that_torch_gives() -> None:
    for name in NETWORKS:
        model, _ = build(NETWORKS, name)
        assert named_modules(model) == dict(model.named_modules())
        found, expected = named_tensors(model), [*model.named_parameters(), *model.named_buffers()]
        assert [key for key, _ in found] == [key for key, _ in expected]
        assert all(mine is other for (_, mine), (_, other) in zip(found, expected, strict=True))


def test_what_has_several_names_goes_by_its_first() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    model.append(model[0])
    model.register_buffer("nothing", None)
    model.register_buffer("own", torch.ones(1))
    assert list(named_modules(model)) == ["", "0", "1"]
    assert [name for name, _ in named_tensors(model)] == ["0.weight", "own"]
