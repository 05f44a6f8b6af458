"""The file that rounds leave."""

from pathlib import Path

from amc_env.pipeline.rounds import GroupScores, Iteration, Iterations


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    groups = (GroupScores(name="stem", channels=(0, 5), scores=(0.1, 1 / 3)),)
    made = Iterations(
        criterion="l2",
        iterations=(Iteration(number=0, macs=7, held_out_accuracy=0.5, groups=groups),),
    )
    made.save(tmp_path)
    assert Iterations.load(tmp_path) == made
