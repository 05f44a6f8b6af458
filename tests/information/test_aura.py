import warnings

import pytest
import torch
from torch import Tensor

from amc_env.information.aura import (
    Scope,
    ame_of_symbols,
    bins_for,
    channel_symbols,
    entropy_reward,
    live_channels,
    pair_counts,
    quantize,
    spatial_entropy,
)
from amc_env.information.counts import entropy_of_counts
from amc_env.information.pair_tables import compiled


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


def by_torch(x: Tensor, bins: int, scope: Scope = "channel") -> Tensor:
    """``spatial_entropy`` from the tables of torch, which other devices take."""
    channels = channel_symbols(x, bins=bins, scope=scope)
    values = [ame_of_symbols(symbols, bins=bins) for symbols in channels]
    return torch.tensor(values, dtype=torch.float64)


def rectified(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Maps with as many zeros as after a ReLU; the last channel is all zeros."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu_()
    x[:, -1] = 0.0
    return x.to(dtype)


@pytest.mark.parametrize("bins", [1, 2, 8, 256, 300, 600])
@pytest.mark.parametrize("size", [(7, 5), (1, 9), (9, 1), (1, 1), (2, 2)])
def test_compiled_tables_give_the_entropies_of_torch(bins: int, size: tuple[int, int]) -> None:
    x = rectified(6, 4, *size)
    expected = by_torch(x, bins)
    assert spatial_entropy(x, bins=bins).allclose(expected, rtol=0, atol=1e-12, equal_nan=True)
    assert expected.isnan().all() == (size == (1, 1))


@pytest.mark.parametrize("scope", ["channel", "map", "layer", (-0.5, 1.5), (2.0, 2.0), (0.0, 9e9)])
def test_compiled_tables_know_every_range(scope: Scope) -> None:
    x = rectified(6, 4, 8, 8)
    difference = spatial_entropy(x, bins=16, scope=scope) - by_torch(x, 16, scope)
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_compiled_tables_read_every_type(dtype: torch.dtype) -> None:
    x = rectified(6, 4, 8, 8, dtype=dtype)
    assert spatial_entropy(x, bins=64).equal(by_torch(x, 64).to(dtype))


def test_compiled_tables_read_maps_in_any_memory_order() -> None:
    x = rectified(6, 4, 8, 10)
    expected = spatial_entropy(x, bins=64)
    assert spatial_entropy(x.contiguous(memory_format=torch.channels_last), bins=64).equal(expected)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert spatial_entropy(turned.requires_grad_(), bins=64).equal(expected)
    wide = torch.cat([x, x], 3)[..., :10]
    assert spatial_entropy(wide, bins=64).equal(expected)


def test_dead_channels_have_no_entropy_at_any_number_of_pairs() -> None:
    x = torch.full((3, 1, 7, 11), 0.3)
    assert spatial_entropy(x, bins=256).tolist() == [0.0]
    x[0, 0, 0, 0] = 1.0
    assert spatial_entropy(x, bins=256, scope=(5.0, 6.0)).tolist() == [0.0]


def test_values_beside_the_edge_of_a_bin_fall_as_in_torch() -> None:
    # Every value is an edge of a bin, or the float before or behind one.
    edges = torch.arange(-96, 193).double() / 96 * 0.7 + 0.1
    ends = edges[:1] - 1, edges[-1:] + 1
    x = torch.cat([edges, edges.nextafter(ends[0]), edges.nextafter(ends[1])]).float()
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].view(1, 1, 51, 17)
    for bins in (3, 96, 288, 289):
        for scope in ("channel", (0.1, 0.8)):
            difference = spatial_entropy(x.double(), bins=bins, scope=scope)
            assert (difference - by_torch(x, bins, scope)).abs().max() < 1e-12


def test_functions_compile_where_nothing_can_be_cached() -> None:
    # numba keeps its cache by the file of a function, and this one is in none.
    assert compiled(eval("lambda number: 2 * number"))(21) == 42


@pytest.mark.parametrize(
    ("size", "samples", "bins"),
    [(2, 1, 2), (4, 1, 2), (4, 2, 4), (32, 1, 16), (8, 100, 64), (32, 66, 128), (32, 67, 256)],
)
def test_automatic_bins_are_the_most_that_the_pairs_fill(
    size: int, samples: int, bins: int
) -> None:
    x = torch.zeros(samples, 3, size, size)
    assert bins_for(x, "auto") == bins
    assert bins == 2 or bins**2 <= samples * size * (size - 1)
    assert bins == 256 or (2 * bins) ** 2 > samples * size * (size - 1)


def test_a_table_of_more_cells_than_pairs_is_warned_about() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="AME of 112 pairs of pixels in 16 x 16 cells"):
        assert bins_for(x, 16) == 16
    with pytest.warns(UserWarning, match="AME of 112 pairs"):
        entropy_reward([x], bins=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bins_for(x, 8) == 8
        assert entropy_reward([x], bins="auto") == entropy_reward([x], bins=8)


@pytest.mark.parametrize("bins", [1, -2, 2.5, "many"])
def test_what_is_no_number_of_bins_is_refused(bins: object) -> None:
    with pytest.raises(ValueError, match="give at least 2, or auto"):
        bins_for(torch.zeros(1, 1, 2, 2), bins)  # type: ignore[arg-type]
