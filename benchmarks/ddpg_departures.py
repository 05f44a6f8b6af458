"""What departures from AMC's DDPG do to the quickstart's search: ours undone, and some more.

The network, the data and the budget are those of ``uv run train_agent.py``; the reward is the
negative cross-entropy on the validation split. Every search is repeated with several seeds of the
agent. Writes a table in Markdown.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from amc_env import ChannelPruningEnv
from amc_env.agents.amc_ddpg import AMCDDPG, learn_episodes
from amc_env.agents.amc_settings import AMCSettings
from amc_env.agents.episode_buffer import EpisodeBuffer
from amc_env.env.environment import Action, Observation
from amc_env.pipeline import CONFIGS, stages
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.overrides import Settings

LAST = 20


class Noting(gym.Wrapper[Observation, Action, Observation, Action]):
    """Notes the reward of every episode."""

    def __init__(self, env: gym.Env[Observation, Action]) -> None:
        super().__init__(env)
        self.rewards: list[float] = []

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            self.rewards.append(float(reward))
        return seen, reward, terminated, truncated, info


class AskedActions(Noting):
    """Does not tell which action was executed, so that the asked one is stored."""

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(action)
        told = {key: v for key, v in info.items() if key not in ("executed", "sparsities")}
        return seen, reward, terminated, truncated, told


class KeptRatios(Noting):
    """Takes the ratio that stays for the action, as AMC's code does."""

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(1 - action)
        told = {key: value for key, value in info.items() if key != "sparsities"}
        return seen, reward, terminated, truncated, {**told, "executed": 1 - info["executed"]}


class Alternating(EpisodeBuffer):
    """Each gradient step sees one step more of the last episode, as where the two alternate."""

    entered = 0

    @override
    def _drawn(self, batch_size: int) -> npt.NDArray[Any]:
        before = self.size() - len(self.episodes[-1])
        self.entered += 1
        return self.rng.integers(before + self.entered, size=batch_size)

    @override
    def _lay_out_(self) -> None:
        super()._lay_out_()
        self.entered = 0


class Distinct(EpisodeBuffer):
    """No step is twice in a batch."""

    @override
    def _drawn(self, batch_size: int) -> npt.NDArray[Any]:
        return self.rng.choice(self.size(), size=min(batch_size, self.size()), replace=False)


class AlternatingDDPG(AMCDDPG):
    """Learns while an episode's steps enter the buffer one by one."""

    @override
    def _setup_model(self) -> None:
        self.replay_buffer_class = Alternating
        super()._setup_model()


class DistinctDDPG(AMCDDPG):
    """Samples without replacement."""

    @override
    def _setup_model(self) -> None:
        self.replay_buffer_class = Distinct
        super()._setup_model()


class ActionsInUnit(nn.Module):
    """A critic's input with the action, its last entry, in [0, 1] instead of [-1, 1]."""

    @override
    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features[:, :-1], (features[:, -1:] + 1) / 2], dim=1)


class HalvedTanh(nn.Tanh):
    """Twice a sigmoid of its argument itself, less 1."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input / 2)


class SigmoidDDPG(AMCDDPG):
    """The actor is the sigmoid of its last layer, and the critic reads actions in [0, 1]."""

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        for actor in (self.actor, self.actor_target):
            actor.mu[-1] = HalvedTanh()
        for critic in (self.critic, self.critic_target):
            for network in critic.q_networks:
                assert isinstance(network, nn.Sequential)
                network.insert(0, ActionsInUnit())


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One departure undone: as settings, as what the agent is told, or as another agent."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    wrapper: Callable[[gym.Env[Observation, Action]], Noting] = Noting
    agent: type[AMCDDPG] = AMCDDPG


VARIANTS = {
    "ours": Variant(),
    "1. asked actions are stored": Variant(wrapper=AskedActions),
    "2. the action is the ratio that stays": Variant(wrapper=KeptRatios),
    "3. observations are not normalised": Variant(settings={"normalise_observations": False}),
    "4. the baseline keeps 0.5 of itself": Variant(settings={"baseline_decay": 0.5}),
    "5. steps enter and gradient steps alternate": Variant(agent=AlternatingDDPG),
    "6. batches without replacement": Variant(agent=DistinctDDPG),
    "8. 101 warm-up episodes, then 0.475": Variant(
        settings={"warmup_episodes": 101, "sigma": 0.475}
    ),
    "9. sigmoid of the last layer, actions in [0, 1]": Variant(agent=SigmoidDDPG),
    "discount 0": Variant(settings={"gamma": 0.0}),
    "8 gradient steps a step": Variant(settings={"gradient_steps": 8}),
    "both, and 50 warm-up episodes": Variant(
        settings={"gamma": 0.0, "gradient_steps": 8, "warmup_episodes": 50}
    ),
}


@contextmanager
def quickstart() -> Iterator[tuple[ChannelPruningEnv, AMCSettings, int]]:
    """The quickstart's environment, its agent's settings and its number of episodes.

    Outcomes are kept in the run's folder, which lasts as long as the context.
    """
    config = RunConfig.of(Settings(CONFIGS).compose(["agent=ddpg_amc", "env.budgeting=clip"]))
    with TemporaryDirectory() as folder:
        run = stages.start(config, Path(folder))
        model, data = stages.base_model(run)
        env = stages.environment(run, model, data)
        options = {k: v for k, v in config.agent.options.items() if k != "warm_start"}
        try:
            yield env, AMCSettings(**options), config.search.episodes
        finally:
            run.folder.close()


def row(name: str, found: Sequence[Sequence[float]]) -> str:
    """Medians over seeds, with the range."""
    figures = {
        "best": [max(rewards) for rewards in found],
        "last": [statistics.mean(rewards[-LAST:]) for rewards in found],
    }
    cells = [
        f"{statistics.median(each):.4f} ({min(each):.4f} to {max(each):.4f})"
        for each in figures.values()
    ]
    return "| " + " | ".join([name, *cells]) + " |"


def main() -> None:
    """Search with every variant and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    over = f"Median and range over {options.seeds} seeds."
    lines = ["# DDPG's departures from AMC", ""]
    with quickstart() as (env, settings, episodes):
        lines += [
            f"Rewards of {episodes} episodes: the best, and the mean of the last {LAST}. {over}",
            "",
            "| agent | best reward | last rewards |",
            "| --- | --: | --: |",
        ]
        for name, variant in VARIANTS.items():
            lines.append(row(name, list(_found(variant, env, settings, episodes, options.seeds))))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _found(
    variant: Variant, env: ChannelPruningEnv, settings: AMCSettings, episodes: int, seeds: int
) -> Iterator[list[float]]:
    """The rewards of a variant's searches."""
    for seed in range(seeds):
        noted = variant.wrapper(env)
        chosen = replace(settings, **variant.settings)
        model = variant.agent(noted, settings=chosen, seed=seed)
        learn_episodes(model, episodes=episodes)
        yield noted.rewards


if __name__ == "__main__":
    main()
