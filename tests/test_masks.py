"""Masks of the smallest weights, at given multiply-accumulates."""

import copy

import pytest
import torch
from pruning import samples, tiny
from torch import nn

from amc_env import ChannelGraph
from amc_env.masks import Way, fix_masks_, with_magnitude_masks
from amc_env.training import TrainingSettings, fit_

GRAPH = ChannelGraph(tiny(), samples(2).inputs)
WAYS: tuple[Way, ...] = ("global", "local")

# Positions of the maps of 8x8 images at which each layer of the tiny network is computed.
POSITIONS = {"stem": 64, "depthwise": 64, "wide": 9, "last": 9, "head": 1}
LAYERS = [name for name in POSITIONS if name != "head"]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight.detach() for name in POSITIONS}


def macs_left(model: nn.Module) -> int:
    """Counted by hand: every weight that is left is used once at every position."""
    return sum(POSITIONS[n] * int((w != 0).sum()) for n, w in weights(model).items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ratio", [0.7, 0.3, 0.05])
def test_the_cost_is_reached_by_weights_that_are_left(way: Way, ratio: float) -> None:
    allowed = int(ratio * GRAPH.cost().flops)
    masked = with_magnitude_masks(GRAPH, way, macs=allowed)
    assert masked.macs == macs_left(masked.model) <= allowed
    # One more weight in every layer would be too much.
    assert masked.macs + sum(POSITIONS.values()) > allowed
    gone = sum(int((w == 0).sum()) for w in weights(masked.model).values())
    assert masked.sparsity == gone / sum(w.numel() for w in weights(masked.model).values())
    assert masked.params == GRAPH.cost().params - gone
    # What is left is as it was, and the classifier, biases and norms are whole.
    for name, weight in weights(masked.model).items():
        before = weights(GRAPH.model)[name]
        assert torch.equal(weight, before * (weight != 0))
    assert torch.equal(weights(masked.model)["head"], weights(GRAPH.model)["head"])
    assert "stem.weight_mask" not in GRAPH.model.state_dict()


def test_globally_no_weight_that_is_left_is_smaller_than_one_that_is_masked() -> None:
    masked = with_magnitude_masks(GRAPH, "global", macs=GRAPH.cost().flops // 3)
    before, after = weights(GRAPH.model), weights(masked.model)
    left = torch.cat([before[n][after[n] != 0].abs() for n in LAYERS])
    gone = torch.cat([before[n][after[n] == 0].abs() for n in LAYERS])
    assert len(left)
    assert len(gone)
    assert left.min() >= gone.max()


def test_locally_every_layer_loses_the_same_share_of_its_smallest_weights() -> None:
    masked = with_magnitude_masks(GRAPH, "local", macs=GRAPH.cost().flops // 3)
    before, after = weights(GRAPH.model), weights(masked.model)
    shares = [float((after[n] == 0).float().mean()) for n in LAYERS]
    # Whole weights only: the smallest layer has 72 of them.
    assert max(shares) - min(shares) <= 1 / 72
    for n in LAYERS:
        assert before[n][after[n] != 0].abs().min() >= before[n][after[n] == 0].abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_training_holds_the_masks_and_fixing_them_leaves_an_ordinary_network(way: Way) -> None:
    masked = with_magnitude_masks(GRAPH, way, macs=GRAPH.cost().flops // 2)
    network = copy.deepcopy(masked.model)
    settings = TrainingSettings(epochs=2, batch=8, learning_rate=0.1, precision="float32")
    fit_(network, samples(24), settings)
    fix_masks_(network)
    fix_masks_(masked.model)
    assert {*network.state_dict()} == {*GRAPH.model.state_dict()}
    for name, weight in weights(network).items():
        before = weights(masked.model)[name]
        assert torch.equal(weight == 0, before == 0)
        assert not torch.equal(weight, before)
    copy.deepcopy(network)


def test_the_whole_cost_masks_nothing() -> None:
    for way in WAYS:
        masked = with_magnitude_masks(GRAPH, way, macs=GRAPH.cost().flops)
        assert masked.sparsity == 0
        assert masked.macs == GRAPH.cost().flops


def test_less_than_the_classifier_costs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"39 multiply-accumulates .* such as the classifier, have "
                       "40; give that many or more"):  # fmt: skip
        with_magnitude_masks(GRAPH, "global", macs=39)
