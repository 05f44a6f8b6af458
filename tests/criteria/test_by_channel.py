"""``reconstruction`` of groups that only transposed convolutions or recurrent layers read."""

import pytest
import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import Calibration
from amc_env.criteria import channel_scores, make_criterion


class ThenUp(nn.Module):
    """A convolution that only a transposed one reads, without overlap."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=groups, bias=False)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.stem(x).relu()).relu())


class ThenSteps(nn.Module):
    """A convolution along time that only a recurrent layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 6, 1)
        self.steps = nn.GRU(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self.stem(x).relu().mT)[0]


def scores(model: nn.Module, x: Tensor) -> Tensor:
    graph = ChannelGraph(model, x)
    calibration = Calibration(model=model, batches=(x[:5], x[5:]))
    criterion = make_criterion("reconstruction", {"ridge": 1e-9})
    return channel_scores(criterion, graph.group("stem"), calibration)


def test_the_first_error_is_the_least_squares_one() -> None:
    torch.manual_seed(0)
    model, x = ThenUp().eval(), torch.randn(9, 2, 4, 4)
    with torch.no_grad():
        rows = model.stem(x).relu().movedim(1, -1).flatten(0, 2).double()
        # Where kernels do not overlap, each pixel makes its own outputs.
        outputs = rows @ model.up.weight.double().flatten(1)
    errors = []
    for gone in range(6):
        left = rows[:, [c for c in range(6) if c != gone]]
        fit = torch.linalg.lstsq(left, outputs).solution
        errors.append(float((outputs - left @ fit).square().sum() / outputs.square().sum()))
    found = scores(model, x)
    assert float(found.min()) == pytest.approx(min(errors), rel=1e-4)
    assert int(found.argmin()) == errors.index(min(errors))


@pytest.mark.parametrize("make", [lambda: ThenUp(2), ThenSteps])
def test_a_channel_that_nothing_reads_goes_first(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    is_up = isinstance(model, ThenUp)
    with torch.no_grad():
        if is_up:
            model.up.weight[1] = 0.0
            # The second convolution group has the same place.
            model.up.weight[4] = 0.0
        else:
            model.steps.weight_ih_l0[:, 1] = 0.0
    x = torch.randn(9, 2, 4, 4) if is_up else torch.randn(9, 2, 7)
    found = scores(model, x)
    assert int(found.argmin()) == 1
    assert float(found.min()) == pytest.approx(0.0, abs=1e-9)
    assert (found.sort().values[1:] > 1e-6).all()
