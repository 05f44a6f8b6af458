import time

import torch
from torch import Tensor, nn

from amc_env.latency.in_place import layer_latencies, times_in_place


class Sleepy(nn.Module):
    """Sleeps behind its second layer, and before its first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        x = self.wide(self.stem(x).relu())
        time.sleep(0.05)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_a_layer_s_time_goes_on_until_the_next_layer_begins() -> None:
    found = times_in_place(
        Sleepy().eval(),
        torch.randn(2, 1, 8, 8),
        {"stem.weight": "stem", "wide.weight": "wide", "head.weight": "head"},
        clock="wall",
        seconds=0.0,
    )
    assert [each.layer for each in found] == ["stem", "wide", "head"]
    stem, wide, head = (each.least_ms for each in found)
    assert wide >= 50
    # What runs before the first layer is in none.
    assert 0 < stem < 20
    assert 0 < head < 20


def test_a_layer_that_runs_twice_has_two_times() -> None:
    again = nn.Conv2d(4, 4, 1)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), again, nn.ReLU(), again).eval()
    found = times_in_place(
        network,
        torch.randn(2, 1, 8, 8),
        {"0.weight": "0", "1.weight": "1"},
        clock="processor",
        seconds=0.0,
    )
    assert [each.layer for each in found] == ["0", "1", "1"]
    assert all(each.least_ms > 0.0 and each.iqr_ms >= 0.0 for each in found)


def test_both_networks_have_a_time_for_every_layer_and_one_that_runs_twice_has_their_sum() -> None:
    again = nn.Conv2d(4, 4, 1)
    original = nn.Sequential(nn.Conv2d(1, 4, 3), again, nn.ReLU(), again).eval()
    found = layer_latencies(
        (original, Slow().eval()),
        torch.randn(2, 1, 8, 8),
        {"0.weight": "0", "1.weight": "1"},
        seconds=0.0,
    )
    assert [each.layer for each in found] == ["0", "1"]
    assert all(0 < each.before_ms < 10 for each in found)
    assert 10 <= found[0].after_ms < 20 <= found[1].after_ms


class Slow(nn.Sequential):
    """Sleeps 10 ms behind every convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self[0], self[1], self[1]):
            x = layer(x)
            time.sleep(0.01)
        return x
