import time

import torch
from pruning import samples, tiny
from torch import Tensor, nn

from amc_env.latency import latencies_ms


class Sleeper(nn.Module):
    """Takes these seconds, one call after the other."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.seconds = list(seconds)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds.pop(0))
        return x


def test_a_latency_is_the_median_in_milliseconds_without_the_first_run() -> None:
    x = torch.zeros(1)
    slow, fast = Sleeper(0.3, 0.02, 0.2, 0.04), Sleeper(0.2, 0.0, 0.0, 0.3)
    first, second = latencies_ms([slow, fast], x, repeats=3)
    assert 40 <= first < 150
    assert 0 <= second < 40


def test_of_an_even_number_of_runs_the_median_lies_between() -> None:
    (found,) = latencies_ms([Sleeper(0.0, 0.0, 0.1)], torch.zeros(1), repeats=2)
    assert 50 <= found < 95


def test_latencies_are_measured_in_evaluation_mode_which_is_put_back() -> None:
    model = tiny().train()
    before = model.norm.running_mean.clone()  # type: ignore[union-attr]
    assert len(latencies_ms([model, tiny()], samples(4).inputs, repeats=3)) == 2
    assert model.training
    assert torch.equal(model.norm.running_mean, before)  # type: ignore[arg-type]
