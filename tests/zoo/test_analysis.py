"""Networks whose analysis takes many trial cuts if it is done badly, and a detector."""

import logging

import pytest
import timm
import torch
import torchvision

from amc_env import ChannelGraph

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("rexnet_100", 0.32),
        ("res2net50_14w_8s", 0.28),
        ("mixnet_s", 0.35),
        ("poolformer_s12", 0.27),
        ("inception_next_tiny", 0.27),
        ("densenetblur121d", 0.32),
    ],
)
def test_all_that_can_be_cut_is_cut_in_few_trials(
    name: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="amc_env.structure.search")
    graph = ChannelGraph(timm.create_model(name), torch.zeros(1, 3, 64, 64))
    half = {group.name: group.channels // 2 for group in graph.groups}
    assert graph.cost(half).flops < share * graph.cost({}).flops
    # One for each kind of cut, of channel ids and of values, and few to find what stays.
    assert len(caplog.records) <= 16


def test_the_backbone_of_a_detector_is_cut() -> None:
    # With random weights, which decide how many boxes there are, and small images: the detector
    # resizes its input to min_size.
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=128, max_size=160
    ).eval()
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    graph = ChannelGraph(model, x)
    body = [group for group in graph.groups if group.name.startswith("backbone.body")]
    # Where a cut leaves a level without boxes, a group is refused.
    assert len(body) >= 34
    compact = graph.compact({group.name: range(group.channels // 2) for group in body})
    (found,) = compact(x)
    assert set(found) == {"boxes", "labels", "scores"}
    half = graph.cost({group.name: group.channels // 2 for group in body})
    assert half.params < 0.6 * graph.cost({}).params
