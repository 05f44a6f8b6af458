import pytest
import torch
from torch import nn

from amc_env.models.initial import he_init_


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
