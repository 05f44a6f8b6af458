"""Paired differences, against drawing image by image."""

import numpy as np
import pytest

from amc_env.studies.intervals import Difference, paired_difference


def rows(seeds: int, images: int, accuracies: tuple[float, float]) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    # Images differ in how hard they are, and both rows find the same ones hard.
    hard = generator.random(images)
    return [hard + 0.2 * generator.standard_normal((seeds, images)) < a for a in accuracies]


def test_the_mean_is_the_difference_of_accuracies() -> None:
    own, other = rows(3, 200, (0.8, 0.7))
    found = paired_difference(own, other)
    assert found.mean == pytest.approx(own.mean() - other.mean())
    assert found.low < found.mean < found.high
    swapped = paired_difference(other, own)
    assert swapped.mean == -found.mean


def test_the_interval_is_that_of_drawing_seeds_and_images_one_by_one() -> None:
    own, other = rows(3, 150, (0.75, 0.7))
    generator = np.random.default_rng(5)
    differences = own.astype(float) - other
    means = []
    for _ in range(3000):
        seeds = generator.integers(3, size=3)
        images = generator.integers(150, size=150)
        means.append(differences[seeds][:, images].mean())
    found = paired_difference(own, other)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.01)


def test_pairing_makes_the_interval_narrower_than_two_separate_samples_would() -> None:
    own, other = rows(1, 1000, (0.75, 0.7))
    found = paired_difference(own, other)
    apart = 1.96 * (own.var() / 1000 + other.var() / 1000) ** 0.5
    assert found.high - found.low < 2 * apart


def test_words_follow_the_interval() -> None:
    words = [
        Difference(mean=0.0, low=low, high=high).verdict
        for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (0.0, 0.1))
    ]
    assert words == ["better", "worse", "no difference shown", "no difference shown"]


def test_equal_networks_do_not_differ() -> None:
    own, _ = rows(2, 50, (0.8, 0.7))
    assert paired_difference(own, own) == Difference(mean=0.0, low=0.0, high=0.0)
