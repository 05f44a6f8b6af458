import pytest
import torch
from torch import Tensor, nn

from amc_env.calibration.hooks import EnoughError, evaluating, listening, run_until_enough


class Named(nn.Module):
    """Passes the input of its second layer by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=self.first(x))


def has_hooks(model: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_listeners_get_inputs_before_and_outputs_after_each_layer() -> None:
    model, x, heard = Named(), torch.ones(4, 2), []
    with listening(
        {"a": model.first, "b": model.second},
        before=lambda name, layer, given: heard.append((name, layer, given)),
        after=lambda name, layer, output: heard.append((name, layer, output)),
    ):
        out = model(x)
    names, layers, tensors = zip(*heard, strict=True)
    assert names == ("a", "a", "b", "b")
    assert layers == (model.first, model.first, model.second, model.second)
    assert tensors[0] is x
    assert tensors[1] is tensors[2]
    assert tensors[3] is out
    assert not has_hooks(model)


def test_listeners_are_removed_after_an_error() -> None:
    model = Named()

    def fail(*_: object) -> None:
        raise KeyError("wrong")

    with (
        pytest.raises(KeyError, match="wrong"),
        listening({"a": model.first, "b": model.second}, before=fail, after=fail),
    ):
        model(torch.ones(4, 2))
    assert not has_hooks(model)


def test_a_run_ends_where_a_listener_has_enough() -> None:
    model, heard = Named(), []

    def enough(name: str, *_: object) -> None:
        heard.append(name)
        raise EnoughError

    with listening({"a": model.first, "b": model.second}, before=enough), evaluating(model):
        run_until_enough(model, torch.ones(4, 2))
    assert heard == ["a"]
    assert model.training
