import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning import samples, tiny, tiny_data, tiny_env
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import nn

import amc_env
from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split

SETTINGS = EnvSettings(repair=RepairSettings(calibration_batch=24), precision="float32")
HALF = Budget(flops=0.5)
HERE = Path(__file__).parent


def run(env: Any, actions: list[float], *, seed: int | None = None) -> list[tuple[Any, ...]]:
    steps: list[tuple[Any, ...]] = [(env.reset(seed=seed)[0].tolist(),)]
    for action in actions:
        seen, reward, terminated, truncated, info = env.step(np.array([action], np.float32))
        told = {k: v for k, v in info.items() if k != "seconds"}
        steps.append((seen.tolist(), reward, terminated, truncated, told))
    return steps


@pytest.mark.filterwarnings("ignore:.*We recommend you to use a symmetric and normalized.*")
def test_both_checkers_pass() -> None:
    env = tiny_env(budget=HALF)
    check_env(env, skip_render_check=True)
    check_env_sb3(env)


def test_rendered_environments_pass_the_checker_too() -> None:
    check_env(tiny_env(budget=HALF, render_mode="rgb_array"), skip_render_check=True)


def make(**changes: Any) -> gym.Env[Any, Any]:
    given = {"model": tiny(), "data": tiny_data(), "budget": HALF, "settings": SETTINGS}
    return gym.make("AMC/ChannelPruning-v0", **{**given, **changes})


def test_gymnasium_makes_and_wraps_it() -> None:
    env = gym.wrappers.RescaleAction(make(), np.float32(-1), np.float32(1))
    env.reset(seed=0)
    *_, info = env.step(np.array([0.0], np.float32))
    assert info["asked"] == pytest.approx(0.5)
    assert env.unwrapped.feature_names[0] == "index"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_of_environments_run(mode: str) -> None:
    given = {
        "model": tiny(),
        "data": tiny_data(),
        "budget": HALF,
        # Held to the budget by one factor, both would be the same policy.
        "settings": replace(SETTINGS, budgeting="clip"),
        "reward": "loss",
    }
    vector = gym.make_vec(
        "AMC/ChannelPruning-v0",
        num_envs=2,
        vectorization_mode=mode,
        **given,
    )
    vector.reset(seed=[0, 1])
    for _ in range(3):
        _, rewards, done, _, info = vector.step(np.array([[0.3], [0.6]], np.float32))
    assert done.all()
    assert (info["flops_ratio"] <= 0.5).all()
    assert rewards[0] != rewards[1]
    vector.close()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(-0.5, 1.5, width=32), min_size=3, max_size=3))
def test_any_actions_end_within_budget_and_are_told_as_executed(actions: list[float]) -> None:
    env = SHARED
    *_, last = run(env, actions)
    _, reward, terminated, truncated, info = last
    assert terminated
    assert not truncated
    assert info["flops_ratio"] <= 0.5
    assert np.isfinite(reward)
    for group in env.graph.groups:
        assert 0.2 * group.channels - 1e-9 <= info["counts"][group.name] <= group.channels
    compact = info["policy"].apply(env.graph.model)
    assert sum(p.numel() for p in compact.parameters()) == info["params"]


SHARED = tiny_env(budget=HALF)


def test_the_executed_sparsity_is_of_whole_channels() -> None:
    env = tiny_env()
    *_, first = run(env, [0.3])
    info = first[4]
    assert info["group"] == env.graph.groups[0].name
    assert info["kept"] == 6  # ceil(0.7 * 8)
    assert info["executed"] == 1 - 6 / 8
    seen = dict(zip(env.feature_names, first[0], strict=True))
    assert seen["last_sparsity"] == 0.25
    assert seen["flops_removed"] == pytest.approx(
        1 - env.graph.cost(env.counts).flops / env.graph.cost().flops
    )


def test_what_is_over_the_budget_is_scaled_for_all_groups_alike() -> None:
    env = tiny_env(budget=HALF, settings=replace(SETTINGS, budgeting="scale"))
    *steps, last = run(env, [0.0, 0.0, 0.0])
    # Every action is executed at first, over the budget or not.
    assert [step[4]["executed"] for step in steps[1:]] == [0.0, 0.0]
    info = last[4]
    assert info["counts"] == env.keeper.scaled({}) == env.counts
    assert info["flops_ratio"] <= 0.5
    channels = {group.name: group.channels for group in env.graph.groups}
    told = [1 - info["counts"][name] / width for name, width in channels.items()]
    assert info["sparsities"] == pytest.approx(told)


SCALING = tiny_env(budget=HALF, settings=replace(SETTINGS, budgeting="scale"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_whatever_is_asked_the_budget_is_spent_and_no_more(actions: list[float]) -> None:
    *_, last = run(SCALING, actions)
    counts = last[4]["counts"]
    assert SCALING.keeper.fits(counts)
    # Not every group can have one more channel.
    more = {g.name: min(counts[g.name] + 1, g.channels) for g in SCALING.graph.groups}
    assert not SCALING.keeper.fits(more)


def test_the_channels_keep_their_proportions_when_all_grow() -> None:
    asked = {"stem": 2, "wide": 4, "last": 2}
    counts = SCALING.keeper.spent(asked)
    # One factor explains all of them, but for one channel of rounding each.
    lowest = max((counts[name] - 1) / asked[name] for name in asked)
    assert 1 < lowest <= min((counts[name] + 1) / asked[name] for name in asked)


def test_observations_can_tell_what_the_repair_loses() -> None:
    env = tiny_env(budget=HALF, settings=replace(SETTINGS, observe_errors=True))
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    told = dict(zip(env.feature_names, seen.tolist(), strict=True))
    group = env.graph.groups[0]
    curve = env.pruner.squared_errors(group.name)
    for name, kept in (("error_at_75", 6), ("error_at_50", 4), ("error_at_25", 2)):
        assert told[name] == pytest.approx(min(1.0, curve[kept - 1] ** 0.5))
    other = env.with_budget(Budget(flops=0.6))
    assert dict(zip(other.feature_names, other.reset()[0], strict=True))["target"] == np.float32(
        0.6
    )


def test_the_same_seed_gives_the_same_trajectory() -> None:
    actions = [0.3, 0.7, 0.1]
    first = run(tiny_env(budget=HALF), actions, seed=3)
    env = tiny_env(budget=HALF)
    run(env, [0.9, 0.1, 0.4], seed=1)
    assert run(env, actions, seed=3) == first
    # A policy that comes again is not evaluated again, and is the same.
    assert run(env, actions, seed=3) == first


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_trajectory() -> None:
    code = (
        "from pruning import tiny_env; from amc_env import Budget; "
        "from test_environment import run; import torch; torch.set_num_threads(1); "
        "s = run(tiny_env(budget=Budget(flops=0.5)), [0.3, 0.7, 0.1], seed=3); "
        "print(s[-1][1], s[-1][4]['counts'])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={
                "PYTHONPATH": ":".join([str(HERE), *filter(None, sys.path)]),
                "PYTHONHASHSEED": seed,
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_seconds_are_told_by_phase() -> None:
    env = tiny_env(budget=HALF)
    env.reset()
    for _ in range(3):
        *_, info = env.step(np.array([0.5], np.float32))
    assert set(info["seconds"]) == {"select", "compact", "repair", "evaluate"}
    assert all(second >= 0 for second in info["seconds"].values())


@pytest.mark.parametrize("algorithm", [PPO, TD3])
@pytest.mark.filterwarnings("ignore:.*We recommend you to use a symmetric and normalized.*")
def test_stable_baselines3_learners_run_unmodified(algorithm: type) -> None:
    options = {"n_steps": 16, "batch_size": 16} if algorithm is PPO else {"learning_starts": 8}
    model = algorithm("MlpPolicy", tiny_env(budget=HALF), seed=0, device="cpu", **options)
    model.learn(32)
    assert model.num_timesteps == 32


def test_pictures_show_what_was_decided() -> None:
    env = tiny_env(budget=HALF, render_mode="rgb_array")
    env.reset()
    before = env.render()
    env.step(np.array([0.5], np.float32))
    after = env.render()
    assert before.dtype == after.dtype == np.uint8
    assert before.shape == after.shape
    assert (before != after).any()
    told = tiny_env(render_mode="ansi")
    told.reset()
    told.step(np.array([0.5], np.float32))
    assert "stem" in told.render()
    assert "multiply-accumulates" in told.render()


def test_another_budget_is_the_environment_that_would_be_made_for_it() -> None:
    first = tiny_env(budget=HALF)
    before = run(first, [0.1, 0.2, 0.3], seed=3)
    other = first.with_budget(Budget(params=0.4))
    alone = tiny_env(budget=Budget(params=0.4))
    for actions in ([0.0, 0.0, 0.0], [0.9, 0.1, 0.4]):
        assert run(other, actions, seed=3) == run(alone, actions, seed=3)
    assert other.budget == Budget(params=0.4)
    assert first.budget == HALF
    assert run(first, [0.1, 0.2, 0.3], seed=3) == before
    assert run(first.with_budget(None), [0.0] * 3)[-1][4]["flops_ratio"] == 1.0


def test_another_budget_runs_no_sample_and_shares_every_outcome() -> None:
    model = Counting().eval()
    env = ChannelPruningEnv(model=model, data=tiny_data(), budget=HALF, settings=SETTINGS)
    paid = env.evaluate({"first": 2, "second": 2})
    seen = model.samples
    other = env.with_budget(Budget(flops=0.3))
    assert model.samples == seen
    assert other.evaluate({"first": 2, "second": 2}) is paid
    # The other way round too: neither is the original of the other.
    assert env.evaluate({"first": 3}) is not None
    assert other.evaluate({"first": 3}) is env.evaluate({"first": 3})
    assert other.pruner is env.pruner


def test_environments_of_two_budgets_play_side_by_side() -> None:
    one = tiny_env(budget=HALF)
    one.reset(seed=1)
    one.action_space.seed(1)
    other = one.with_budget(Budget(flops=0.3))
    other.reset(seed=1)
    other.action_space.seed(1)
    one.step(np.array([0.5], np.float32))
    assert (len(one.counts), len(other.counts)) == (1, 0)
    assert one.np_random is not other.np_random
    assert one.action_space.sample() == other.action_space.sample()


def test_a_budget_that_cannot_be_met_is_refused_later_too() -> None:
    env = tiny_env(budget=HALF)
    with pytest.raises(ValueError, match=r"the budget for flops is 0\.001, but with every group"):
        env.with_budget(Budget(flops=0.001))
    assert env.budget == HALF


def test_a_made_environment_has_its_budget_changed_below_its_wrappers() -> None:
    made = make()
    inner = made.unwrapped.with_budget(Budget(flops=0.3))  # type: ignore[attr-defined]
    assert run(inner, [0.0] * 3)[-1][4]["flops_ratio"] <= 0.3
    assert inner.spec is None
    assert made.unwrapped.spec is not None


def test_bounds_of_the_settings_hold() -> None:
    env = tiny_env(settings=EnvSettings(min_keep=0.5, max_keep=0.75, precision="float32"))
    *_, last = run(env, [0.0, 1.0, 0.0])
    for group in env.graph.groups:
        assert 0.5 <= last[4]["counts"][group.name] / group.channels <= 0.75


def test_an_outcome_of_a_group_that_does_not_exist_is_refused() -> None:
    env = tiny_env()
    counts = {group.name: group.channels // 2 for group in env.graph.groups}
    paid = env.evaluate(counts)
    with pytest.raises(ValueError, match="'nowhere'"):
        env.evaluate({**counts, "nowhere": 3})
    assert env.evaluate(counts) == paid


class Counting(nn.Module):
    """Without norms; it counts the samples that go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)
        self.samples = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.samples += len(x)
        x = self.second(self.first(x).relu()).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"budget": Budget(flops=0.001)}, "with every group at its fewest"),
        ({"criterion": "l3"}, "criterion 'l3' does not exist"),
        ({"reward": "acuracy"}, "reward 'acuracy' does not exist"),
        ({"labels": 5}, "scores of 4 classes, but there is a label 4"),
    ],
    ids=["budget", "criterion", "reward", "labels"],
)
def test_mistakes_are_found_before_the_samples_are_run(
    changes: dict[str, Any], expected: str
) -> None:
    model, many = Counting().eval(), samples(400)
    labels = torch.arange(400) % changes.pop("labels", 4)
    data = PruningData(
        calibration=samples(400, seed=1), validation=Split(inputs=many.inputs, labels=labels)
    )
    with pytest.raises(ValueError, match=expected):
        ChannelPruningEnv(model=model, data=data, settings=SETTINGS, **changes)
    assert model.samples < 100


def test_mistakes_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="with every group at its fewest"):
        make(budget=Budget(flops=0.001))
    with pytest.raises(
        ValueError, match="reward 'acuracy' does not exist; the nearest is 'accuracy'"
    ):
        make(reward="acuracy")
    with pytest.raises(ValueError, match="criterion 'l3' does not exist"):
        make(criterion="l3")
    with pytest.raises(ValueError, match=r"min_keep is 0\.9 and max_keep is 0\.5"):
        EnvSettings(min_keep=0.9, max_keep=0.5)
    with pytest.raises(ValueError, match="precision 'half' does not exist"):
        make(settings=EnvSettings(precision="half"))
    with pytest.raises(ValueError, match="render_mode 'human' does not exist"):
        ChannelPruningEnv(model=tiny(), data=tiny_data(), render_mode="human")
    beyond = Split(inputs=samples(12).inputs, labels=torch.arange(12))
    with pytest.raises(ValueError, match="scores of 4 classes, but there is a label 11"):
        make(data=PruningData(calibration=samples(12), validation=beyond))
    wide = Split(inputs=torch.randn(4, 2, 8, 8), labels=torch.arange(4))
    with pytest.raises(ValueError, match=r"cannot run|channels"):
        make(data=PruningData(calibration=wide, validation=wide))
    with pytest.raises(ValueError, match="the reward is nan"):
        run(make(reward=lambda _: float("nan")).unwrapped, [0.5] * 3)
    env = tiny_env()
    env.reset()
    with pytest.raises(ValueError, match="the action is nan"):
        env.step(np.array([np.nan], np.float32))
    run(env, [0.5] * len(env.graph.groups))
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(np.array([0.5], np.float32))


def test_activations_that_are_no_numbers_are_refused() -> None:
    model = tiny()
    with torch.no_grad():
        model.wide.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"NaN or infinite"):
        ChannelPruningEnv(model=model, data=tiny_data(), settings=SETTINGS)


def test_importing_the_package_brings_no_learner_along() -> None:
    code = "import sys, amc_env; print('stable_baselines3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert amc_env.ChannelPruningEnv is ChannelPruningEnv
