"""Episodes by phase, updates of the agent, and a whole search."""

import statistics
import time
from collections.abc import Iterator
from functools import partial

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from typing_extensions import override

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings
from amc_env.agents import make_agent
from amc_env.agents.amc_ddpg import AMCDDPG, learn_episodes
from amc_env.agents.amc_settings import AMCSettings
from amc_env.batches import first_tensor
from amc_env.models import build_model
from benchmarks.speed.records import Case, Size, medians
from benchmarks.vgg16_episode import PHASES, episode, forward_seconds, images

UPDATES = 20


def environment(name: str, size: Size) -> ChannelPruningEnv:
    """A network for CIFAR's sizes and noise for data, with half the FLOPs to leave."""
    model = build_model(name, seed=0)
    with torch.no_grad():
        model(images(64, seed=2).inputs)
    calibration, validation = (40, 40) if size.short else (500, 500)
    return ChannelPruningEnv(
        model=model.to(size.device).eval(),
        data=PruningData(
            calibration=images(calibration, seed=0), validation=images(validation, seed=1)
        ),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=EnvSettings(
            repair=RepairSettings(sampled_positions=10, repair="plain"), precision="float32"
        ),
    )


def phases(size: Size) -> Iterator[Case]:
    """An episode, by the wall clock, beside a forward pass of the validation images."""
    networks = size.of(("cifar_vgg16", "cifar_resnet56", "cifar_mobilenet_v2"), ("cifar_resnet20",))
    for name in networks:
        started = time.perf_counter()
        env = environment(name, size)
        prepared = time.perf_counter() - started
        generator, x = (
            np.random.default_rng(0),
            first_tensor(images(40 if size.short else 500, seed=1).inputs),
        )
        episode(env, generator)
        rounds = [
            (forward_seconds(env.graph.model, x.to(size.device)), episode(env, generator))
            for _ in range(size.rounds)
        ]
        values = {"prepared s": prepared}
        for phase in ("all", *PHASES):
            values[f"{phase} s"] = statistics.median(times[phase] for _, times in rounds)
        values["forward passes"] = statistics.median(times["all"] / f for f, times in rounds)
        yield Case(name=name, values=values)


class _Walk(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Episodes of as many steps as a network has groups, with nothing to compute in them."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (20,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    steps = 27

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, object]]:
        super().reset(seed=seed, options=options)
        self.left = self.steps
        return self._seen(), {}

    @override
    def step(
        self, _: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, object]]:
        self.left -= 1
        return self._seen(), float(self.left == 0), self.left == 0, False, {}

    def _seen(self) -> NDArray[np.float32]:
        return self.np_random.random(20, dtype=np.float32)


def update(size: Size) -> Iterator[Case]:
    """A gradient step of AMC's DDPG on a batch of 64, beside one of stable-baselines3's DDPG."""
    amc = AMCDDPG(_Walk(), settings=AMCSettings(warmup_episodes=1), seed=0, device="cpu")
    learn_episodes(amc, episodes=3)
    plain = DDPG("MlpPolicy", _Walk(), learning_starts=70, batch_size=64, seed=0, device="cpu")
    plain.learn(3 * _Walk.steps)
    each, updates = amc.settings.gradient_steps, 5 if size.short else UPDATES
    ways = {
        "amc_env s": partial(amc.train, updates, 64),
        "stable-baselines3 s": partial(plain.train, updates * each, 64),
    }
    taken = {way: s / (updates * each) for way, s in medians(ways, size).items()}
    taken["times stable-baselines3's"] = taken["amc_env s"] / taken["stable-baselines3 s"]
    yield Case(name="networks of AMC and of stable-baselines3", values=taken)


def search(size: Size) -> Iterator[Case]:
    """A search by the default agent, with its environment prepared."""
    episodes = 20 if size.short else 400
    for name in size.of(("cifar_resnet56",), ("cifar_resnet20",)):
        env = environment(name, size)
        started = time.perf_counter()
        found = make_agent("ddpg").search(env, episodes=episodes, seed=0)
        seconds = time.perf_counter() - started
        values = {"episodes": len(found.episodes), "seconds": seconds}
        values["episodes a minute"] = 60 * len(found.episodes) / seconds
        yield Case(name=name, values=values)
