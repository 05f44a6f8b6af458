"""How many channels every group keeps after each round: in even steps, by numbers or by rates."""

from typing import Any

import pytest
from pruning import samples, tiny

from amc_env import ChannelGraph
from amc_env.pipeline.round_counts import check_given, counts_by_round
from amc_env.pipeline.rounds import IterativeSettings

# Of 8, 12 and 10 channels.
GRAPH = ChannelGraph(tiny(), samples(2).inputs)


def counts(target: dict[str, int], **settings: Any) -> list[dict[str, int]]:
    return counts_by_round(GRAPH, target, settings=IterativeSettings(**settings))


def course(name: str, target: int, **settings: Any) -> list[int]:
    return [found[name] for found in counts({name: target}, **settings)]


def test_a_group_loses_the_same_share_of_what_it_has_left_in_every_round() -> None:
    # Of 8 channels, a quarter is left after two halvings: 4, then 2. Of 12 channels, 3 are a
    # quarter too: 6, then 3. A group without a target stays whole.
    found = counts({"stem": 2, "wide": 3}, rounds=2)
    assert found == [{"stem": 4, "wide": 6, "last": 10}, {"stem": 2, "wide": 3, "last": 10}]


@pytest.mark.parametrize("rounds", [1, 3, 20])
def test_the_target_is_reached_in_so_many_rounds_and_no_channel_comes_back(rounds: int) -> None:
    target = {"stem": 1, "wide": 11, "last": 7}
    found = counts(target, rounds=rounds)
    assert len(found) == rounds
    assert found[-1] == target
    for name in target:
        numbers = [8 if name == "stem" else 12, *(each[name] for each in found)]
        assert numbers == sorted(numbers, reverse=True)


def test_numbers_are_multiples_where_groups_keep_multiples() -> None:
    graph = ChannelGraph(tiny(), samples(2).inputs, round_to=2)
    for settings in (IterativeSettings(rounds=3), IterativeSettings(rounds=3, rates=(0.3,))):
        for found in counts_by_round(graph, {"stem": 2, "wide": 4}, settings=settings):
            assert {count % 2 for count in found.values()} == {0}


def test_given_numbers_are_kept_and_what_is_left_out_takes_even_steps() -> None:
    target = {"stem": 2, "wide": 3, "last": 5}
    whole = ((7, 11, 9), (2, 3, 5))
    assert [[*each.values()] for each in counts(target, rounds=2, counts=whole)] == [
        [7, 11, 9],
        [2, 3, 5],
    ]
    # The other groups halve, and so does 8 on its way to 2 once 8 are given after the first round.
    found = counts({"stem": 2, "wide": 3}, rounds=3, counts=({"stem": 8}, {}))
    assert [each["stem"] for each in found] == [8, 4, 2]
    assert [each["wide"] for each in found] == [8, 5, 3]


def test_rates_take_a_share_of_what_is_left_and_nothing_that_the_policy_keeps() -> None:
    # A quarter of 12 goes, a third of the 9; half of the 6 would leave fewer than the policy's 4.
    assert course("wide", 4, rounds=3, rates=(0.25, 1 / 3, 0.5)) == [9, 6, 4]
    assert course("wide", 7, rounds=3, rates=(0.25, 0.5)) == [9, 7, 7]
    assert course("wide", 3, rounds=3, rates=({"wide": 0.5}, {})) == [6, 4, 3]
    assert course("stem", 8, rounds=1, rates=(0.5,)) == [8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": ({"wide": 5}, {"wide": 5})}, r"have 12, 5, 5 channels .* the policy keeps 4"),
        ({"counts": ({"wide": 3},)}, "have 12, 3, 4 channels"),
        ({"rates": (0.1, 0.1)}, "have 12, 11, 10 channels .* or nothing for the last round"),
    ],
)
def test_what_does_not_lead_to_the_policy_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        course("wide", 4, rounds=2, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": ((1, 2),)}, r"round 1 of iterative.counts has 2 numbers, .* has 3 groups"),
        ({"rates": (0.1, {"wade": 0.1})}, "group 'wade' does not exist; the nearest is 'wide'"),
        ({"counts": ({"wide": 13},)}, r"gives group 'wide' 13 of 12 channels; give one of 1, 2"),
        ({"counts": ({"wide": 0},)}, "gives group 'wide' 0 of 12"),
        ({"counts": ({"wide": 6}, {"wide": 7})}, "gives group 'wide' 6, 7 channels; rounds only"),
        ({"rates": ({"wide": 1.0},)}, "removes 1.0 of the channels of group 'wide' in a round"),
    ],
)
def test_what_fits_no_policy_is_refused_before_one_is_known(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_given(GRAPH, IterativeSettings(rounds=2, **settings))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="counts and rates are both given; give one of them"):
        IterativeSettings(rounds=1, counts=((1,),), rates=(0.5,))
    with pytest.raises(ValueError, match="rates has numbers for 2 rounds, and rounds is 1; give"):
        IterativeSettings(rounds=1, rates=(0.5, 0.5))
