import pytest
import torch
from pruning import Tiny, tiny
from torch import nn

from amc_env.models.initial import forget_training_, he_init_


def test_weights_have_the_variance_2_over_fan_in_and_biases_are_zero() -> None:
    conv, linear = nn.Conv2d(64, 128, 3), nn.Linear(512, 256)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        he_init_(nn.Sequential(conv, nn.ReLU(), linear))
    assert conv.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.03)
    assert linear.weight.var().item() == pytest.approx(2 / 512, rel=0.03)
    assert conv.bias is not None
    assert not conv.bias.any()
    assert not linear.bias.any()


def test_nothing_of_a_training_is_left() -> None:
    trained, other = tiny(), tiny()
    nn.init.constant_(other.wide.weight, 3.0)
    for model in (trained, other):
        forget_training_(model, seed=1)
    state = trained.state_dict()
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in state.items())
    assert not torch.equal(trained.wide.weight, tiny().wide.weight)
    assert not trained.norm.running_mean.any()
    forget_training_(other, seed=2)
    assert not torch.equal(trained.wide.weight, other.wide.weight)


def test_a_parameter_that_no_layer_draws_is_named() -> None:
    model = Tiny()
    model.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="scale is a parameter of no layer of PyTorch's"):
        forget_training_(model, seed=0)
