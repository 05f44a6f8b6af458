import pytest

from amc_env.latency.surface import Surface


def test_on_a_grid_the_interpolation_is_bilinear() -> None:
    surface = Surface({(2, 4): 1.0, (2, 8): 2.0, (4, 4): 3.0, (4, 8): 6.0})
    assert surface.at(2, 4) == 1.0
    assert surface.at(4, 8) == 6.0
    assert surface.at(2, 6) == pytest.approx(1.5)
    # Halfway between 1.5 at two inputs and 4.5 at four.
    assert surface.at(3, 6) == pytest.approx(3.0)


def test_below_the_smallest_number_the_line_goes_on() -> None:
    surface = Surface({(4, 4): 4.0, (8, 4): 6.0})
    assert surface.at(2, 4) == pytest.approx(3.0)
    # Far below, a tenth of the smallest time is left.
    assert Surface({(4, 4): 4.0, (5, 4): 8.0}).at(1, 4) == pytest.approx(0.4)


def test_where_only_equal_numbers_were_measured_the_geometric_mean_counts() -> None:
    surface = Surface({(4, 4): 1.0, (8, 8): 3.0, (16, 16): 11.0})
    assert surface.at(8, 8) == 3.0
    assert surface.at(6, 6) == pytest.approx(2.0)
    # The geometric mean of 4 and 16 is 8.
    assert surface.at(4, 16) == pytest.approx(3.0)


def test_a_single_point_is_the_time_everywhere() -> None:
    assert Surface({(3, 10): 0.5}).at(3, 7) == 0.5


def test_multiples_of_16_and_other_numbers_are_interpolated_apart() -> None:
    # A machine that takes 1 for every channel of a multiple of 16, and 2 for every other.
    known = (16, 27, 64, 91, 128)
    law = {number: float(number * (1 if number % 16 == 0 else 2)) for number in known}
    depthwise = Surface({(number, number): time for number, time in law.items()})
    outputs = Surface({(3, number): time for number, time in law.items()})
    for number in (32, 33, 59, 96, 112, 127):
        expected = number if number % 16 == 0 else 2 * number
        assert depthwise.at(number, number) == pytest.approx(expected)
        assert outputs.at(3, number) == pytest.approx(expected)
