import pytest
import torch

from amc_env.information.aura import (
    ame_of_symbols,
    entropy_reward,
    live_channels,
    pair_counts,
    quantize,
    spatial_entropy,
)
from amc_env.information.counts import entropy_of_counts


def test_pairs_of_a_row_are_counted_left_to_right() -> None:
    # 0 1 1 has the pairs (0, 1) and (1, 1).
    row = torch.tensor([[0, 1, 1]])
    assert pair_counts(row, offset=(0, 1), bins=2).tolist() == [[0, 1], [0, 1]]
    assert pair_counts(row, offset=(0, -1), bins=2).tolist() == [[0, 0], [1, 1]]
    assert not pair_counts(row, offset=(1, 0), bins=2).any()


def test_entropy_of_even_counts_is_the_number_of_bits() -> None:
    assert entropy_of_counts(torch.tensor([3, 3, 3, 3])).item() == pytest.approx(2.0)
    assert entropy_of_counts(torch.tensor([0, 7])).item() == 0.0


def test_a_checkerboard_is_known_from_its_neighbour_and_noise_is_not() -> None:
    board = torch.arange(8)[:, None] + torch.arange(8)
    assert ame_of_symbols(board % 2, bins=2) == pytest.approx(0.0, abs=1e-12)
    noise = torch.randint(0, 2, (64, 64), generator=torch.Generator().manual_seed(0))
    assert ame_of_symbols(noise, bins=2) > 0.99


def test_the_greatest_value_falls_into_the_last_bin() -> None:
    x = torch.tensor([0.0, 0.24, 0.26, 1.0]).view(1, 1, 2, 2)
    assert quantize(x, bins=4).flatten().tolist() == [0, 0, 1, 3]


def test_dead_channels_are_left_out_of_the_reward() -> None:
    x = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 3.0
    assert live_channels(x).tolist() == [True, False]
    assert entropy_reward([x], bins=8) == pytest.approx(entropy_reward([x[:, :1]], bins=8))
    assert entropy_reward([x[:, 1:]], bins=8) == 0.0


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps have the shape \(3, 4\)"):
        quantize(torch.zeros(3, 4), bins=4)
    with pytest.raises(ValueError, match="bins is 0"):
        quantize(torch.zeros(1, 1, 2, 2), bins=0)
    with pytest.raises(ValueError, match="scope 'image' does not exist"):
        spatial_entropy(torch.zeros(1, 1, 2, 2), scope="image")
