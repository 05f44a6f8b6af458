import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pruning import samples, tiny_env

from amc_env import ChannelPruningEnv
from amc_env.pipeline import CONFIGS, stages
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.overrides import Settings
from amc_env.pipeline.run import Run
from amc_env.pipeline.trust import figures, trust
from amc_env.rewards import Reward, RewardContext, rewards_by_name

COUNTS = {"stem": 4, "wide": 6, "last": 5}


def started(folder: Path, *overrides: str) -> Run:
    run = stages.start(RunConfig.of(Settings(CONFIGS).compose(overrides)), folder / "run")
    run.folder.open_(run.config.as_plain())
    return run


def with_reward(run: Run, name: str, reward: Reward) -> Run:
    run.parts = replace(run.parts, reward=reward, names={**run.parts.names, "reward": name})
    return run


@pytest.fixture(scope="module")
def env() -> ChannelPruningEnv:
    return tiny_env(selection=samples(40, seed=2))


def test_nothing_is_tried_unless_asked(tmp_path: Path, env: ChannelPruningEnv) -> None:
    run = started(tmp_path)
    trust(run, env)
    assert run.trust == ()
    assert not list(run.folder.path.glob("trust*"))


def test_the_correlations_are_shown_and_written(
    tmp_path: Path, env: ChannelPruningEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(tmp_path, "trust=8", "reward=loss", "seed=1")
    trust(run, env)
    said = capsys.readouterr().out
    names = {*rewards_by_name(), "parameters left", "summed error curves"}
    assert "rank correlation with 8 realised networks on the selection images" in said
    with (run.folder.path / "trust.csv").open() as file:
        rows = {row["prediction"]: row for row in csv.DictReader(file)}
    with (run.folder.path / "trust_policies.csv").open() as file:
        policies = list(csv.DictReader(file))
    assert names == {*rows}
    assert len(policies) == 8
    for found in run.trust:
        assert found.name in said
        row = rows[found.name]
        assert float(row["accuracy_correlation"]) == pytest.approx(
            found.accuracy.correlation, nan_ok=True
        )
        assert float(row["loss_high"]) == pytest.approx(found.loss.high, nan_ok=True)
    policy = policies[3]
    counts = {name: int(policy[f"kept/{name}"]) for name in COUNTS}
    assert float(policy["realised/loss"]) == pytest.approx(-tiny_judge(env, counts, "loss"))
    assert float(policy["predicted/loss"]) == env.evaluate(counts).reward
    assert float(policy["params_ratio"]) == float(policy["predicted/parameters left"])


def tiny_judge(env: ChannelPruningEnv, counts: dict[str, int], reward: str) -> float:
    realised = env.pruner.prune_sequentially(counts)
    return rewards_by_name()[reward](env.context(realised, counts, on="selection"))


def test_metrics_hold_no_number_that_json_has_not(tmp_path: Path, env: ChannelPruningEnv) -> None:
    run = with_reward(started(tmp_path, "trust=8"), "flat", lambda _context: 1.0)
    trust(run, env)
    plain = figures(run.trust)
    assert plain["flat"]["accuracy"] == {"correlation": None, "low": None, "high": None}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


@pytest.mark.parametrize(("sign", "is_warned"), [(1, False), (-1, True)])
def test_a_reward_that_ranks_badly_is_named(
    sign: int,
    is_warned: bool,
    tmp_path: Path,
    env: ChannelPruningEnv,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def foreseen(context: RewardContext) -> float:
        return sign * tiny_judge(env, dict(context.counts), "loss")

    run = with_reward(started(tmp_path, "trust=8"), "foreseen", foreseen)
    trust(run, env)
    said = capsys.readouterr().out
    warning = "warning: the reward foreseen has a rank correlation of -1.00 with how good the"
    assert (warning in said) is is_warned
    assert (len([line for line in said.splitlines() if "warning" in line]) == 1) is is_warned


def test_a_run_that_chooses_goes_on_with_the_reward_that_ranks_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = tiny_env(reward="accuracy", selection=samples(40, seed=2))
    before = env.evaluate(COUNTS)
    run = started(tmp_path, "trust=8", "reward=auto")
    assert run.parts.names["reward"] == "auto"
    trust(run, env)
    best = next(t.name for t in run.trust if t.is_reward and t.name != "random")
    assert f"the reward {best} ranks the networks best and is used" in capsys.readouterr().out
    assert run.parts.names["reward"] == best
    expected = rewards_by_name()[best](env.context(env.pruner.prune(COUNTS).model, COUNTS))
    assert env.evaluate(COUNTS).reward == expected
    assert env.evaluate(COUNTS).accuracy == before.accuracy


def test_a_reward_that_is_to_be_chosen_has_policies_tried() -> None:
    def tried(*overrides: str) -> int:
        return RunConfig.of(Settings(CONFIGS).compose(overrides)).tried_policies

    assert [tried(), tried("trust=8"), tried("reward=auto")] == [0, 8, 24]
    assert tried("reward=auto", "trust=10") == 10
