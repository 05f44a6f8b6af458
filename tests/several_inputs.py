"""A network that takes several inputs by name, one of them nested, and gives a mapping."""

import torch
from torch import Tensor, nn


class TwoInputs(nn.Module):
    """Takes an image and a further input for each sample, by name, and gives a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8 + 2, 3)
        self.places = nn.Embedding(4, 2)

    def forward(self, image: Tensor, where: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x = self.body(self.stem(image).relu()).relu().mean((2, 3))
        place = self.places(where[0]) * where[1]
        return {"depth": self.head(torch.cat([x, place], 1))}


def two_inputs(samples: int, seed: int = 0) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(samples, 1, 6, 6, generator=generator),
        "where": (torch.arange(samples) % 4, torch.randn(samples, 1, generator=generator)),
    }
