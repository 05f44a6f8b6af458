"""A small trained-looking network and its data, for tests of the environment and the agents."""

import torch
from torch import Tensor, nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.memory import Memory, forgetful


class Tiny(nn.Module):
    """Three convolutions, one of them depthwise, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 12, 3, stride=2)
        self.last = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.stem(x)).relu())
        x = self.last(self.wide(x).relu()).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def samples(count: int, *, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(
        inputs=torch.randn(count, 1, 8, 8, generator=generator), labels=torch.arange(count) % 4
    )


def tiny() -> Tiny:
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        for _ in range(10):
            model(samples(32).inputs)
    return model.eval()


def tiny_data(*, selection: Split | None = None) -> PruningData:
    return PruningData(calibration=samples(24), validation=samples(40, seed=1), selection=selection)


def tiny_env(
    *,
    budget: Budget | None = None,
    reward: object = "loss",
    settings: EnvSettings | None = None,
    render_mode: str | None = None,
    selection: Split | None = None,
    memory: Memory = forgetful,
) -> ChannelPruningEnv:
    return ChannelPruningEnv(
        model=tiny(),
        data=tiny_data(selection=selection),
        reward=reward,
        budget=budget,
        settings=settings
        or EnvSettings(repair=RepairSettings(calibration_batch=24), precision="float32"),
        render_mode=render_mode,
        memory=memory,
    )
