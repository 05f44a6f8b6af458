"""The law that every agent of the table keeps, whatever it does inside."""

import random
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pruning import tiny, tiny_data, tiny_env
from torch import nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, RepairSettings
from amc_env.agents import (
    AGENT,
    AGENTS,
    Episode,
    Recorder,
    Searcher,
    SearchFailedError,
    SearchResult,
    learners,
    make_agent,
)
from amc_env.agents.blend import blends
from amc_env.agents.searchers import Uniform
from amc_env.names import name_of

EPISODES = 6
HALF = Budget(flops=0.5)
WIDTHS = {group.name: group.channels for group in tiny_env().graph.groups}
# So few episodes that the learners' own defaults would never come to a gradient step.
OPTIONS: dict[str, dict[str, Any]] = {
    "ddpg_amc": {"warmup_episodes": 2, "batch_size": 8, "hidden_sizes": (16, 16)},
    "ddpg": {"warmup_episodes": 2, "batch_size": 8, "hidden_sizes": (16, 16), "sigma": 0.2},
    "td3": {"learning_starts": 6},
    "sac": {"learning_starts": 6},
    "tqc": {"learning_starts": 6},
}
# They play one episode; milp because all its exponents lead to one policy in this network.
WITHOUT_CHANCE = ("uniform", "error_curves", "blend", "milp", "most_parameters", "one_shot")
BY_CHANCE = [name for name in AGENTS if name not in WITHOUT_CHANCE]

every_agent = pytest.mark.parametrize("name", AGENTS)


def make(name: str) -> Searcher:
    return make_agent(name, OPTIONS.get(name))


def env_of(reward: object = "loss") -> ChannelPruningEnv:
    return tiny_env(budget=HALF, reward=reward)


@cache
def played(name: str) -> tuple[SearchResult, tuple[Episode, ...]]:
    """A search with seed 0, and what its listener was told."""
    told: list[Episode] = []
    result = make(name).search(env_of(), episodes=EPISODES, seed=0, on_episode=told.append)
    return result, tuple(told)


def outcomes(result: SearchResult) -> list[tuple[object, ...]]:
    return [(e.reward, e.counts, e.sparsities, e.flops_ratio, e.accuracy) for e in result.episodes]


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@every_agent
def test_it_plays_its_number_of_episodes_each_within_budget(name: str) -> None:
    result, told = played(name)
    assert result.is_complete
    expected = len(blends(env_of())) if name == "blend" else 1
    assert len(result.episodes) == (expected if name in WITHOUT_CHANCE else EPISODES)
    assert [e.number for e in result.episodes] == list(range(1, len(result.episodes) + 1))
    assert all(e.flops_ratio <= 0.5 for e in result.episodes)
    assert told == result.episodes
    ends = [e.at_seconds for e in result.episodes]
    assert ends[0] > 0
    assert ends == sorted(ends)
    assert ends[-1] <= result.seconds


@every_agent
def test_an_episode_says_what_was_kept(name: str) -> None:
    for episode in played(name)[0].episodes:
        kept = [1.0 - episode.counts[group] / width for group, width in WIDTHS.items()]
        assert list(episode.sparsities) == kept
        assert set(episode.counts) == set(WIDTHS)


@every_agent
def test_the_answer_is_its_best_episode(name: str) -> None:
    result, _ = played(name)
    assert result.best in result.episodes
    assert result.best.reward == max(e.reward for e in result.episodes)
    assert result.policy.counts == result.best.counts
    assert result.policy.reached["flops"] == result.best.flops_ratio
    assert size(result.compact) / size(tiny()) == result.best.params_ratio
    assert env_of().evaluate(result.best.counts).reward == result.best.reward


@every_agent
def test_the_same_seed_gives_the_same_episodes(name: str) -> None:
    again = make(name).search(env_of(), episodes=EPISODES, seed=0)
    assert outcomes(again) == outcomes(played(name)[0])


@pytest.mark.parametrize("name", BY_CHANCE)
def test_another_seed_gives_other_episodes(name: str) -> None:
    other = make(name).search(env_of(), episodes=EPISODES, seed=1)
    assert outcomes(other) != outcomes(played(name)[0])
    assert other.policy.seed == 1


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_without_chance_the_seed_changes_nothing(name: str) -> None:
    other = make(name).search(env_of(), episodes=EPISODES, seed=1)
    assert outcomes(other) == outcomes(played(name)[0])


@every_agent
def test_one_episode_is_one_episode(name: str) -> None:
    result = make(name).search(env_of(), episodes=1, seed=0)
    assert len(result.episodes) == 1


@every_agent
def test_an_interruption_keeps_what_was_found(name: str) -> None:
    whole = played(name)[0]
    last = min(3, len(whole.episodes))

    def interrupt(episode: Episode) -> None:
        if episode.number == last:
            raise KeyboardInterrupt

    result = make(name).search(env_of(), episodes=EPISODES, seed=0, on_episode=interrupt)
    assert not result.is_complete
    assert len(result.episodes) == last
    assert outcomes(result) == outcomes(whole)[:last]
    assert result.best.reward == max(e.reward for e in whole.episodes[:last])
    assert size(result.compact) / size(tiny()) == result.best.params_ratio


@every_agent
def test_an_interruption_within_an_episode_forgets_that_episode(name: str) -> None:
    paid = iter([-1.0])

    def reward(_context: object) -> float:
        value = next(paid, None)
        if value is None:
            raise KeyboardInterrupt
        return value

    result = make(name).search(env_of(reward), episodes=EPISODES, seed=0)
    assert result.best.reward == -1.0
    assert len({tuple(e.counts.items()) for e in result.episodes}) == 1
    # Whoever plays one policy again and again is paid from memory, and is not interrupted.
    whole = make(name).search(env_of("loss"), episodes=EPISODES, seed=0)
    assert result.is_complete == (len({tuple(e.counts.items()) for e in whole.episodes}) == 1)


@every_agent
def test_an_interruption_before_the_first_episode_goes_through(name: str) -> None:
    def reward(_context: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(name).search(env_of(reward), episodes=EPISODES, seed=0)


@every_agent
def test_the_network_is_not_modified(name: str) -> None:
    model = tiny()
    settings = EnvSettings(repair=RepairSettings(calibration_batch=24), precision="float32")
    env = ChannelPruningEnv(model=model, data=tiny_data(), budget=HALF, settings=settings)
    make(name).search(env, episodes=EPISODES, seed=0)
    before, after = tiny().state_dict(), model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not model.training


@pytest.mark.parametrize("name", OPTIONS)
def test_a_search_leaves_no_temporary_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make(name).search(env_of(), episodes=EPISODES, seed=0)
    assert list(tmp_path.iterdir()) == []


@every_agent
def test_global_random_numbers_go_on_as_if_nothing_had_been(name: str) -> None:
    def drawn() -> tuple[float, ...]:
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    env = env_of()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    make(name).search(env, episodes=EPISODES, seed=0)
    assert drawn() == expected


class OneGroup(nn.Module):
    """A network with nothing to decide but one number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head = nn.Conv2d(1, 20, 3), nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.wide(x).relu().mean((2, 3)))
        return out


@every_agent
def test_a_network_of_one_group_is_enough(name: str) -> None:
    env = ChannelPruningEnv(model=OneGroup(), data=tiny_data(), reward="loss", budget=HALF)
    assert len(env.graph.groups) == 1
    result = make(name).search(env, episodes=EPISODES, seed=0)
    assert 1 <= len(result.episodes) <= EPISODES
    assert result.best.flops_ratio <= 0.5
    assert len(result.best.sparsities) == 1


@every_agent
@pytest.mark.parametrize("episodes", [0, -1])
def test_a_search_without_episodes_is_refused(name: str, episodes: int) -> None:
    with pytest.raises(ValueError, match=f"episodes is {episodes}; give at least 1"):
        make(name).search(env_of(), episodes=episodes, seed=0)


@every_agent
def test_the_page_has_a_line_for_it(name: str) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "agents.md"
    assert f"\n| `{name}` |" in page.read_text(encoding="utf-8")


# The table


@every_agent
def test_an_option_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"agent '{name}' cannot take 'nonsense'; .*option"):
        make_agent(name, {"nonsense": 1})


@pytest.mark.parametrize(
    ("name", "given", "nearest"),
    [
        ("ddpg_amc", "warmup_episode", "warmup_episodes"),
        ("td3", "learning_start", "learning_starts"),
        ("ppo", "nsteps", "n_steps"),
        ("cma_es", "sigm", "sigma"),
    ],
)
def test_a_misspelt_option_names_its_neighbour(name: str, given: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"take '{given}'; the nearest option is '{nearest}'"):
        make_agent(name, {given: 1})


@pytest.mark.parametrize("name", ["td3", "sac", "ppo", "tqc"])
@pytest.mark.parametrize("own", ["seed", "device", "env", "policy"])
def test_what_a_search_gives_itself_is_no_option(name: str, own: str) -> None:
    with pytest.raises(ValueError, match=f"cannot take '{own}'; the nearest option is"):
        make_agent(name, {own: 1})


@pytest.mark.parametrize(
    ("given", "nearest"), [("unifrom", "uniform"), ("dpgg", "ddpg"), ("cmaes", "cma_es")]
)
def test_a_misspelt_name_is_refused_with_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=f"agent '{given}' does not exist; the nearest is '{nearest}'"
    ):
        make_agent(given)


def test_a_value_that_an_option_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="tau is 2; it must be a number in"):
        make_agent("ddpg_amc", {"tau": 2})
    with pytest.raises(ValueError, match="agent 'ddpg': tau is 'much'; it must be a number"):
        make_agent("ddpg_amc", {"tau": "much"})
    with pytest.raises(ValueError, match="agent 'ddpg': warm_start is 'yes'; it must be true or"):
        make_agent("ddpg_amc", {"warm_start": "yes"})
    with pytest.raises(ValueError, match="sigma is 0; give a deviation above 0"):
        make_agent("cma_es", {"sigma": 0})


def test_an_agent_made_already_is_given_back() -> None:
    agent = Uniform()
    assert make_agent(agent) is agent
    with pytest.raises(ValueError, match="the options episodes come too late"):
        make_agent(agent, {"episodes": 3})
    with pytest.raises(ValueError, match="which is no agent"):
        make_agent(3)  # type: ignore[arg-type]


CONFIGS = Path(__file__).resolve().parents[2] / "amc_env" / "configs" / "agent"
# own.yaml is for agents that have no file.
FILES = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "own")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_agent_by_name_is_that_of_its_configuration(path: Path) -> None:
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    by_file, by_name = make_agent(given["name"], given["options"]), make_agent(path.stem)
    assert by_file == by_name
    assert name_of(by_file) == path.stem
    if isinstance(by_name, learners.Learner):
        # Nothing that the name brings along is missing from the file.
        assert dict(by_name.options) == given["options"]


def test_every_agent_has_a_configuration() -> None:
    assert {path.stem for path in FILES} == set(AGENTS)


@every_agent
def test_tables_call_an_agent_by_its_name(name: str) -> None:
    assert name_of(make(name)) == name


class Middle(Searcher):
    """A searcher of a user's: one public method and no name."""

    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        for episode in range(episodes):
            recorder.play([(episode + seed) / (episodes + seed)] * len(WIDTHS))


def test_a_searcher_of_ones_own_needs_one_method() -> None:
    assert name_of(Middle()) == "Middle"
    assert isinstance(AGENT.make_target(f"{__name__}.Middle"), Searcher)
    result = make_agent(Middle()).search(env_of(), episodes=3, seed=0)
    assert [e.number for e in result.episodes] == [1, 2, 3]
    assert result.best.reward == max(e.reward for e in result.episodes)


# A search that fails


def failing(last: int, error: Exception) -> Any:
    """A reward that fails after that many different networks."""
    paid = iter(range(last))

    def reward(_context: object) -> float:
        number = next(paid, None)
        if number is None:
            raise error
        return -float(number)

    return reward


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no memory is left\nfor anything"), "no memory is left"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_an_error_keeps_the_episodes_that_were_finished(error: Exception, reason: str) -> None:
    told: list[Episode] = []
    env = env_of(failing(3, error))
    message = f"the search failed after 3 finished episodes, which are kept: {reason}$"
    with pytest.raises(SearchFailedError, match=message) as caught:
        make_agent("random").search(env, episodes=EPISODES, seed=0, on_episode=told.append)
    result = caught.value.result
    assert caught.value.__cause__ is error
    assert list(result.episodes) == told
    assert [e.reward for e in told] == [0.0, -1.0, -2.0]
    assert not result.is_complete
    assert result.best == told[0]
    assert size(result.compact) / size(tiny()) == result.best.params_ratio


def test_a_reward_that_is_no_number_keeps_the_episodes_of_a_learner() -> None:
    paid = iter([1.0, 2.0])
    env = env_of(lambda _: next(paid, float("nan")))
    with pytest.raises(SearchFailedError, match=r"2 finished episodes.*: the reward is nan"):
        make("td3").search(env, episodes=EPISODES, seed=0)


def test_an_error_in_the_first_episode_goes_through() -> None:
    error = MemoryError("no memory is left")
    with pytest.raises(MemoryError) as caught:
        make_agent("random").search(env_of(failing(0, error)), episodes=EPISODES, seed=0)
    assert caught.value is error


# Options of the learners of stable-baselines3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("td3", {"batch_size": -1}),
        ("td3", {"batch_size": 2.5}),
        ("td3", {"learning_rate": "x"}),
        ("sac", {"learning_rate": 0}),
        ("sac", {"gamma": 1.5}),
        ("tqc", {"tau": 0}),
        ("tqc", {"buffer_size": 0}),
        ("ppo", {"n_epochs": True}),
        ("ppo", {"n_steps": "many"}),
        ("ppo", {"gae_lambda": None}),
        ("td3", {"train_freq": [1, "epoch"]}),
        ("td3", {"train_freq": [1]}),
        ("td3", {"learning_starts": "soon"}),
        ("sac", {"policy_kwargs": 3}),
        ("sac", {"ent_coef": None}),
    ],
)
def test_a_value_that_a_learner_cannot_have_is_refused_at_once(
    name: str, options: dict[str, Any]
) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=f"agent '{name}': {option} is .*; it must be "):
        make_agent(name, options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sac", {"ent_coef": "none"}),
        ("td3", {"policy_kwargs": {"net_arhc": [4]}}),
        ("td3", {"policy_kwargs": {"activation_fn": "relu"}}),
        ("ppo", {"n_steps": 1}),
    ],
)
def test_what_stable_baselines3_refuses_is_said_with_the_agent(
    name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"agent '{name}' cannot be made with the options"):
        make_agent(name, options).search(env_of(), episodes=EPISODES, seed=0)


def test_a_list_for_train_freq_means_a_pair() -> None:
    assert make_agent("td3", {"train_freq": [2, "episode"]}) == make_agent(
        "td3", {"train_freq": (2, "episode")}
    )
    agent = make_agent("td3", {"train_freq": [2, "episode"], "learning_starts": 6})
    assert len(agent.search(env_of(), episodes=EPISODES, seed=0).episodes) > 2


@pytest.mark.parametrize("name", ["ddpg_amc", "td3"])
def test_learning_curves_are_written_where_the_search_says(name: str, tmp_path: Path) -> None:
    make(name).search(env_of(), episodes=EPISODES, seed=0, log=tmp_path / "curves")
    assert list((tmp_path / "curves").rglob("events*"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_random_numbers_of_cuda_go_on_as_if_nothing_had_been() -> None:
    torch.cuda.manual_seed_all(7)
    before = torch.cuda.get_rng_state_all()
    make("td3").search(env_of(), episodes=2, seed=0)
    after = torch.cuda.get_rng_state_all()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_importing_the_agents_imports_no_learner() -> None:
    heavy = ("optuna", "cmaes", "stable_baselines3", "sb3_contrib")
    code = (
        "import sys, amc_env.agents, amc_env.agents.amc_settings; "
        f"print(set({heavy}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# What only learners can get wrong


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("td3", {"train_freq": 7}),
        ("sac", {"train_freq": (4, "episode")}),
        ("tqc", {"train_freq": (8, "step")}),
        ("ppo", {"n_steps": 8, "batch_size": 4}),
    ],
)
def test_long_rollouts_do_not_add_episodes(name: str, options: dict[str, Any]) -> None:
    result = make_agent(name, options).search(env_of(), episodes=EPISODES, seed=0)
    assert 2 < len(result.episodes) <= EPISODES


@pytest.mark.parametrize(("episodes", "played"), [(2, 2), (8, 8), (9, 9), (16, 9), (17, 17)])
def test_ppo_plays_whole_rollouts_of_eight_and_its_own(episodes: int, played: int) -> None:
    result = make("ppo").search(env_of(), episodes=episodes, seed=0)
    assert len(result.episodes) == played


@pytest.mark.parametrize(
    ("name", "options"), [("td3", {"train_freq": (6, "episode")}), ("ppo", {"n_steps": 2048})]
)
def test_a_learner_that_would_never_learn_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"6 episodes of 3 steps leave 15 before the last"):
        make_agent(name, options).search(env_of(), episodes=EPISODES, seed=0)


@pytest.mark.parametrize("name", ["ddpg_amc", "td3", "sac", "ppo", "tqc"])
def test_learners_learn_and_end_with_their_own_policy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, list[float]]] = []
    play = learners._play_greedily

    def weights(model: Any) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in model.policy.parameters()])

    def spy(model: Any, recorder: Any) -> None:
        play(model, recorder)
        observation, _ = recorder.pruning.reset()
        for _ in recorder.pruning.graph.groups:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, _, _, info = recorder.pruning.step(np.asarray(action))
        seen.append((weights(model), list(info["sparsities"])))

    monkeypatch.setattr(learners, "_play_greedily", spy)
    made = make(name)
    untrained = made.search(env_of(), episodes=1, seed=0)
    result = made.search(env_of(), episodes=EPISODES, seed=0)
    assert len(untrained.episodes) == 1
    before, after = seen[0][0], seen[1][0]
    assert not torch.equal(before, after)
    assert list(result.episodes[-1].sparsities) == seen[1][1]


def test_a_warm_start_begins_with_the_blends() -> None:
    agent = make_agent("ddpg", {**OPTIONS["ddpg"], "warm_start": True, "sigma": 0.1})
    result = agent.search(env_of(), episodes=EPISODES, seed=0)
    assert len(result.episodes) == EPISODES
    blend = played("blend")[0]
    begun = result.episodes[: len(blend.episodes)]
    assert [episode.counts for episode in begun] == [e.counts for e in blend.episodes]
    assert result.best.reward >= blend.best.reward
    again = agent.search(env_of(), episodes=EPISODES, seed=0)
    assert outcomes(again) == outcomes(result)
    alone = agent.search(env_of(), episodes=1, seed=0)
    assert [e.counts for e in alone.episodes] == [result.episodes[0].counts]


def test_without_a_budget_there_are_no_blends_to_begin_with() -> None:
    result = make("ddpg").search(tiny_env(), episodes=2, seed=0)
    assert len(result.episodes) == 2
    assert result.episodes[0].counts != WIDTHS


# A policy to begin from

START = {"stem": 8, "wide": 3, "last": 10}


@every_agent
def test_every_agent_takes_a_policy_to_begin_from(name: str) -> None:
    env = env_of()
    result = make(name).search(env, episodes=EPISODES, seed=0, start=START)
    again = make(name).search(env, episodes=EPISODES, seed=0, start=START)
    assert outcomes(again) == outcomes(result)
    assert len(result.episodes) == len(played(name)[0].episodes)
    begins_there = name in ("ddpg", "ddpg_amc", "cma_es", "tpe")
    assert (outcomes(result) != outcomes(played(name)[0])) is begins_there


@pytest.mark.parametrize("name", ["tpe", "ddpg", "ddpg_amc"])
def test_the_policy_to_begin_from_is_played_within_the_budget(name: str) -> None:
    env = env_of()
    result = make(name).search(env, episodes=EPISODES, seed=0, start=START)
    start = env.keeper.scaled(START)
    first = result.episodes[0]
    # tpe asks for it as for any other policy, and what is left of the budget is spent.
    assert first.counts == (env.keeper.spent(start) if name == "tpe" else start)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_warm_start_imitates_the_best_policy(sign: int) -> None:
    # Of the policies to begin with, the first is the best by one of these rewards and the worst by
    # its opposite.
    env = env_of(lambda context: float(sign * context.counts["wide"]))
    # With next to no noise, an episode of the warm-up shows what the actor imitates.
    agent = make_agent("ddpg", {**OPTIONS["ddpg"], "warm_start": True, "sigma": 1e-3})
    count = len(blends(env)) + 2
    *begun, imitated = agent.search(env, episodes=count, seed=0, start=START).episodes

    def distance(episode: Episode) -> int:
        return sum(abs(count - imitated.counts[name]) for name, count in episode.counts.items())

    best = max(begun, key=lambda episode: episode.reward)
    assert (best is begun[0]) is (sign == -1)
    assert distance(best) == min(map(distance, begun))


def test_cma_es_draws_around_the_policy_to_begin_from() -> None:
    env = env_of()
    start = env.keeper.spent(env.keeper.scaled(START))
    narrow = make_agent("cma_es", {"sigma": 1e-3})
    result = narrow.search(env, episodes=4, seed=0, start=START)
    assert all(episode.counts == start for episode in result.episodes)


def test_a_policy_of_another_network_is_no_policy_to_begin_from() -> None:
    with pytest.raises(ValueError, match="there is no group 'nowhere'"):
        make("tpe").search(env_of(), episodes=2, seed=0, start={"nowhere": 3})
