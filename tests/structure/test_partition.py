"""Channel classes are sorted by the places where they lie."""

from collections import Counter, defaultdict

import pytest
import torch
from torch import Tensor

from amc_env.structure.partition import alike


def found(vectors: list[Tensor], among: Tensor) -> list[tuple[list[int], list[int]]]:
    return [(numbers, labels.tolist()) for numbers, labels in alike(vectors, among)]


def test_labels_are_alike_if_they_occur_equally_often_in_the_same_vectors() -> None:
    vectors = [torch.tensor(labels) for labels in ([5, 1, 2, 3, 3], [2, 1], [4, 6])]
    among = torch.ones(7, dtype=torch.bool)
    among[6] = False
    # 5 and 3 lie in the first vector alone, but 3 twice.
    assert found(vectors, among) == [([0], [5]), ([0, 1], [1, 2]), ([0], [3]), ([2], [4])]


def test_nothing_is_found_among_no_vectors_and_no_labels() -> None:
    assert found([], torch.ones(3, dtype=torch.bool)) == []
    assert found([torch.tensor([1, 2])], torch.zeros(3, dtype=torch.bool)) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_sets_are_those_of_a_direct_count(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randint(8, (size,), generator=generator) for size in (3, 9, 1, 6, 6)]
    among = torch.rand(8, generator=generator) < 0.8
    places: dict[int, dict[int, int]] = defaultdict(dict)
    for number, vector in enumerate(vectors):
        for label, count in Counter(vector.tolist()).items():
            places[label][number] = count
    expected: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for label, counts in places.items():
        if among[label]:
            expected[tuple(counts.items())].append(label)
    sets = [([n for n, _ in key], labels) for key, labels in expected.items()]
    assert found(vectors, among) == sets
