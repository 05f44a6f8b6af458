"""One search, and the networks that it leaves, as a record that is kept in a file."""

import base64
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pydantic import BaseModel
from torch import nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.agents import make_agent
from amc_env.data import Source
from amc_env.env.realise import adjust
from amc_env.evaluation import Evaluator
from amc_env.files import write_text
from amc_env.training import TrainingSettings
from benchmarks.subjects import Subject, is_right

AGENT_FILES = Path(__file__).resolve().parents[2] / "amc_env" / "configs" / "agent"
FINALISTS = 5


class Found(BaseModel):
    """What one search has found.

    Attributes:
        network: Name of the network.
        flops: Ratio of the multiply-accumulates allowed.
        agent: Name of the agent.
        options: Options that are not those of the agent's file, as text.
        reward: Name of the reward.
        seed: Of the search, and of the images that are drawn for it.
        rewards: The reward of every episode.
        accuracy: Of the best episode, on the validation images.
        flops_ratio: Multiply-accumulates that are left.
        params_ratio: Parameters that are left.
        sparsities: Of every group.
        seconds: Of the search, of its phases in sum, of the repair and of the adjustment.
        is_right: By stage, whether each test image is classified right, as packed bits in base64.
        tests: How many test images there are.
    """

    network: str
    flops: float
    agent: str
    options: str
    reward: str
    seed: int
    rewards: list[float]
    accuracy: float
    flops_ratio: float
    params_ratio: float
    sparsities: list[float]
    seconds: dict[str, float]
    is_right: dict[str, str]
    tests: int

    @property
    def title(self) -> str:
        """The agent with the options that are its own here."""
        return f"{self.agent} {self.options}".strip()

    def right(self, stage: str) -> NDArray[np.bool_]:
        """Whether each test image is classified right."""
        packed = np.frombuffer(base64.b64decode(self.is_right[stage]), dtype=np.uint8)
        found: NDArray[np.bool_] = np.unpackbits(packed, count=self.tests).astype(bool)
        return found

    def write(self, folder: Path) -> None:
        """Write the record to a file of its own."""
        name = f"{self.network}-{self.flops}-{self.title}-{self.reward}-{self.seed}.json"
        text = self.model_dump_json(indent=1)
        write_text(folder / name.replace("/", "_").replace(" ", "_"), text)


def environment(
    subject: Subject,
    *,
    flops: float,
    reward: str,
    images: Mapping[str, int],
    seed: int,
) -> ChannelPruningEnv:
    """The environment of a seed's searches; ``images`` has the sizes of the drawn splits.

    Where there are too few original images for the adjustment, it has re-encoded ones too.
    """
    drawn = PruningData.of_training(subject.train, test=subject.test, seed=seed, **images)
    more = images.get("adjustment", 0) - len(drawn.adjusting)
    if more > 0 and subject.reencoded is not None:
        drawn = replace(
            drawn, adjustment=_with_others(drawn.adjusting, subject.reencoded, more, seed=seed)
        )
    return ChannelPruningEnv(
        model=subject.model,
        data=drawn,
        criterion="reconstruction",
        reward=reward,
        budget=Budget(flops=flops),
        settings=EnvSettings(ignore=subject.ignore, seed=seed, repair=RepairSettings(seed=seed)),
    )


def _with_others(own: Source, others: Source, count: int, *, seed: int) -> Split:
    """All of the samples, and so many random ones of the others."""
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    both = own, others.take(order[:count])
    return Split.of([(samples.first(len(samples)), samples.labels) for samples in both])


def search(
    env: ChannelPruningEnv,
    test: Evaluator,
    described: Mapping[str, Any],
    *,
    episodes: int,
    adjustment: TrainingSettings | None,
) -> Found:
    """Search, realise the best policy, adjust it, and test both networks.

    Args:
        env: The environment.
        test: Runs networks on the test images.
        described: The fields of ``Found`` that say what is searched.
        episodes: The greatest number of episodes.
        adjustment: How the weights are adjusted without labels; None where they are not.
    """
    agent = agent_of(described["agent"], described["options"])
    result = agent.search(env, episodes=episodes, seed=described["seed"])
    seconds = {"search": result.seconds}
    for phase in ("evaluate", "repair", "compact"):
        seconds[phase] = sum(episode.seconds[phase] for episode in result.episodes)
    started = time.perf_counter()
    realised = result.realised(env, finalists=FINALISTS)
    seconds["realise"] = time.perf_counter() - started
    found = Found(
        **described,
        rewards=[episode.reward for episode in result.episodes],
        accuracy=result.best.accuracy,
        flops_ratio=realised.best.flops_ratio,
        params_ratio=realised.best.params_ratio,
        sparsities=list(realised.best.sparsities),
        seconds={phase: round(value, 2) for phase, value in seconds.items()},
        is_right={"repaired": packed_right(test, realised.compact)},
        tests=len(test.split),
    )
    return found if adjustment is None else adjusted(env, test, found, realised.compact, adjustment)


def adjusted_again(
    env: ChannelPruningEnv, test: Evaluator, found: Found, adjustment: TrainingSettings
) -> Found:
    """A search whose network is repaired anew, by its policy alone, and adjusted by ``adjustment``.

    Args:
        env: The environment of its seed.
        test: Runs networks on the test images.
        found: The search.
        adjustment: How the weights are adjusted without labels.
    """
    counts = {
        group.name: round((1 - sparsity) * group.channels)
        for group, sparsity in zip(env.graph.groups, found.sparsities, strict=True)
    }
    repaired = env.pruner.prune_sequentially(counts)
    anew = found.model_copy(update={"is_right": {"repaired": packed_right(test, repaired)}})
    return adjusted(env, test, anew, repaired, adjustment)


def adjusted(
    env: ChannelPruningEnv,
    test: Evaluator,
    found: Found,
    repaired: nn.Module,
    adjustment: TrainingSettings,
) -> Found:
    """A search with the figures of its repaired network after an adjustment."""
    started = time.perf_counter()
    network = adjust(env, repaired, adjustment, seed=found.seed)
    seconds = round(time.perf_counter() - started, 2)
    return found.model_copy(
        update={
            "seconds": found.seconds | {"adjust": seconds},
            "is_right": found.is_right | {"adjusted": packed_right(test, network)},
        }
    )


def packed_right(test: Evaluator, network: nn.Module) -> str:
    """Whether each test image is classified right, packed into text."""
    return base64.b64encode(np.packbits(is_right(test, network).numpy()).tobytes()).decode()


def agent_of(name: str, options: str) -> Any:
    """The agent of a file in ``configs/agent``, with options such as ``sigma=0.1 gamma=0``."""
    file = OmegaConf.load(AGENT_FILES / f"{name}.yaml")
    given = OmegaConf.to_container(OmegaConf.merge(file, {"options": _own(options)}))
    assert isinstance(given, dict)
    return make_agent(given["name"], given["options"])


def _own(options: str) -> Any:
    return OmegaConf.from_dotlist(options.split())
