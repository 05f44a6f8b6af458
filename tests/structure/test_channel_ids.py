import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_env.structure.channel_ids import ChannelClasses, along, narrow_repeats

PAIRS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=40)


def test_ids_that_meet_share_the_smallest_label() -> None:
    classes = ChannelClasses()
    first, second, third = classes.fresh(3), classes.fresh(3), classes.fresh(1)
    classes.unite(first, second)
    classes.unite(second[2], third[0])
    assert first.tolist() == [1, 2, 3]
    assert classes.canonical(second).tolist() == [1, 2, 3]
    assert classes.canonical(third).tolist() == [3]


def test_neutral_places_unite_nothing() -> None:
    classes = ChannelClasses()
    ids = classes.fresh(2)
    classes.unite(ids, torch.zeros(2, dtype=torch.long))
    assert classes.canonical(ids).tolist() == ids.tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=PAIRS, cut=st.integers(0, 40))
def test_labels_are_the_connected_components(pairs: list[tuple[int, int]], cut: int) -> None:
    classes = ChannelClasses()
    classes.fresh(30)
    expected = list(range(31))
    for number, (a, b) in enumerate(pairs):
        classes.unite(torch.tensor(a), torch.tensor(b))
        if number == cut:
            # Asking in between must not change the answer.
            classes.labels()
        low, high = sorted((expected[a], expected[b]))
        expected = [low if label == high else label for label in expected]
    assert classes.labels().tolist() == expected


def test_ids_that_are_added_later_may_meet_the_first() -> None:
    classes = ChannelClasses()
    for _ in range(6):
        ids = classes.fresh(5)
        classes.unite(ids[:-1], ids[1:])
        assert classes.canonical(ids).tolist() == [int(ids[0])] * 5
        assert classes.sizes().tolist() == [1] + [5] * (int(ids[-1]))
    classes.unite(ids[0], torch.tensor(7))
    labels = [0, *(first for first in (1, 6, 11, 16, 21) for _ in range(5)), *([6] * 5)]
    assert classes.labels().tolist() == labels


def test_repeats_cost_one_place() -> None:
    spread = along(torch.tensor([4, 5, 6]), (2, 3, 100, 100), 1)
    (narrow,) = narrow_repeats(spread)
    assert spread.shape == (2, 3, 100, 100)
    assert narrow.shape == (1, 3, 1, 1)
