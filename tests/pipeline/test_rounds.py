"""Numbers of channels by round, and the file that rounds leave."""

from pathlib import Path

import pytest
from pruning import samples, tiny

from amc_env import ChannelGraph
from amc_env.pipeline.rounds import GroupScores, Iteration, Iterations, counts_by_round

GRAPH = ChannelGraph(tiny(), samples(2).inputs)


def test_a_group_loses_the_same_share_of_what_it_has_left_in_every_round() -> None:
    # Of 8 channels, a quarter is left after two halvings: 4, then 2. Of 12 channels, 3 are a
    # quarter too: 6, then 3. A group without a target stays whole.
    found = counts_by_round(GRAPH, {"stem": 2, "wide": 3}, rounds=2)
    assert found == [{"stem": 4, "wide": 6, "last": 10}, {"stem": 2, "wide": 3, "last": 10}]


@pytest.mark.parametrize("rounds", [1, 3, 20])
def test_the_target_is_reached_in_so_many_rounds_and_no_channel_comes_back(rounds: int) -> None:
    target = {"stem": 1, "wide": 11, "last": 7}
    found = counts_by_round(GRAPH, target, rounds=rounds)
    assert len(found) == rounds
    assert found[-1] == target
    for name in target:
        numbers = [8 if name == "stem" else 12, *(counts[name] for counts in found)]
        assert numbers == sorted(numbers, reverse=True)


def test_numbers_are_multiples_where_groups_keep_multiples() -> None:
    graph = ChannelGraph(tiny(), samples(2).inputs, round_to=2)
    for counts in counts_by_round(graph, {"stem": 2, "wide": 4}, rounds=3):
        assert {count % 2 for count in counts.values()} == {0}


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    groups = (GroupScores(name="stem", channels=(0, 5), scores=(0.1, 1 / 3)),)
    made = Iterations(
        criterion="l2",
        iterations=(Iteration(number=0, macs=7, held_out_accuracy=0.5, groups=groups),),
    )
    made.save(tmp_path)
    assert Iterations.load(tmp_path) == made
