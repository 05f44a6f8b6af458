import pytest
import torch
from pruning import samples, tiny
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.latency.segments import Segment, record_segments
from amc_env.models import build_model


def recorded(model: nn.Module, x: Tensor) -> list[Segment]:
    weights = {layer.weight: layer.name for layer in ChannelGraph(model, x).layers if layer.weight}
    found: list[Segment] = []
    record_segments(model, x, weights, found.append)
    return found


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (tiny(), samples(3).inputs),
        (build_model("cifar_resnet20", seed=0).eval(), torch.randn(2, 3, 32, 32)),
    ],
    ids=["tiny", "resnet20"],
)
def test_the_segments_one_after_the_other_are_the_network(model: nn.Module, x: Tensor) -> None:
    segments = recorded(model, x)
    names = [layer.name for layer in ChannelGraph(model, x).layers]
    assert sorted(segment.layer for segment in segments) == sorted(names)
    with torch.no_grad():
        wanted = model(x)
        ends = [segment(*segment.inputs) for segment in segments]
    for end, following in zip(ends, segments[1:], strict=False):
        assert any(torch.equal(result, given) for result in end for given in following.inputs)
    (last,) = ends[-1]
    assert torch.equal(last, wanted)


def test_a_segment_is_a_layer_with_what_hangs_on_it() -> None:
    stem, depthwise, wide, last, head = recorded(tiny(), samples(3).inputs)
    calls = [s.signature.split("; ") for s in (stem, depthwise, wide, last, head)]
    assert [[call.partition(" ")[0] for call in each] for each in calls] == [
        ["conv2d", "batch_norm", "relu"], ["conv2d"], ["conv2d", "relu"],
        ["conv2d", "relu", "mean"], ["linear"],
    ]  # fmt: skip
    assert "8x1x3x3" in depthwise.signature


def test_equal_layers_have_equal_signatures() -> None:
    segments = recorded(build_model("cifar_resnet20", seed=0).eval(), torch.randn(2, 3, 32, 32))
    # Three blocks of a stage have the same first layer, but for that of the next stage's beginning.
    first = [
        s.signature for s in segments if s.layer.endswith("conv1") and "16x16x3x3" in s.signature
    ]
    assert len(first) > 2
    assert len(set(first[1:])) == 1


def test_a_layer_that_runs_twice_has_two_segments() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.again(self.again(self.stem(x)).relu())
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    names = [s.layer for s in recorded(Twice().eval(), samples(2).inputs)]
    assert names == ["stem", "again", "again", "head"]
