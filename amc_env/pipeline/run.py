"""What a run carries from stage to stage."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amc_env.agents import SearchResult
from amc_env.metric import ACCURACY, Metric
from amc_env.pipeline.config import Parts, RunConfig
from amc_env.pipeline.folder import RunFolder
from amc_env.pipeline.journal import Journal
from amc_env.pipeline.originals import Originals
from amc_env.policy import ModelSource, PrunedFacts, save_pruned
from amc_env.trust import Trust

Stage = Literal["pruned", "repaired", "selected", "iterative", "finetuned", "from scratch"]


@dataclass(kw_only=True, eq=False)
class Run:
    """What all stages of a run share; with several budgets, those of one budget.

    Attributes:
        config: The settings.
        parts: The objects that the settings name.
        folder: Where the run writes.
        started: When it began.
        overrides: The settings that the command line gave, as it gave them.
        is_complete: False once the run was interrupted.
        trust: How well rewards rank policies, where the run tries them.
        journal: What the run has computed until now, before an interruption too.
        last_found: How many channels each group keeps in the policy that an agent found at the
            budget before, by the name of a compared agent and by None for the run's own agent.
        originals: The accuracies of original networks, of earlier runs too.
        source: What built the original network, once it is built.
        later_ranking_seconds: How long the criterion took for the networks of rounds but the
            first.
    """

    config: RunConfig
    parts: Parts
    folder: RunFolder
    journal: Journal
    overrides: tuple[str, ...] = ()
    started: float = field(default_factory=time.perf_counter)
    is_complete: bool = True
    trust: tuple[Trust, ...] = ()
    last_found: dict[str | None, Mapping[str, int]] = field(default_factory=dict)
    originals: Originals = field(default_factory=Originals)
    source: ModelSource | None = None
    later_ranking_seconds: float = 0.0

    @property
    def metric(self) -> Metric:
        """The metric of the run's task."""
        return self.parts.task.metric

    def measured(self, accuracy: float, measured_on: str) -> dict[str, Any]:
        """What a policy and its weights say of the metric, with its name if it is no accuracy."""
        metric = None if self.metric == ACCURACY else self.metric.name
        return {"accuracy": accuracy, "metric": metric, "measured_on": measured_on}


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A pruned network as one stage of the run left it.

    Attributes:
        agent: Who found its policy.
        stage: The last stage that changed its weights: ``repaired`` layer by layer, or ``selected``
            among the finalists where nothing is repaired, or pruned and trained in ``iterative``
            rounds.
        result: The search; ``compact`` is this network.
        held_out_accuracy: The task's metric on training images that nothing was fitted to, where
            the run fine-tunes.
    """

    agent: str
    stage: Stage
    result: SearchResult
    held_out_accuracy: float | None = None

    @property
    def is_realised(self) -> bool:
        """Whether the run has made it from its best policy, for all that follows."""
        return self.stage in ("repaired", "selected", "iterative")

    @property
    def name(self) -> str:
        """How the network is called in tables."""
        return f"{self.agent}, {self.stage}"


def choose(networks: Sequence[Network]) -> Network:
    """The network to export: the last one, or the one before where fine-tuning made it worse.

    The fine-tuned network and the one before are compared by the task's metric on the held-out
    images.
    """
    last = networks[-1]
    if last.stage == "finetuned":
        return max(networks[-2:][::-1], key=_held_out)
    return last


def _held_out(network: Network) -> float:
    measured = network.held_out_accuracy
    return float("-inf") if measured is None else measured


def write_network(
    run: Run, folder: Path, network: Network, *, macs: int, accuracy: float, measured_on: str
) -> None:
    """Write the policy and the weights of a network, with an accuracy and where it is from."""
    measured = run.measured(accuracy, measured_on)
    policy = network.result.policy.model_copy(update={"source": run.source, **measured})
    save_pruned(folder, policy, network.result.compact, PrunedFacts(macs=macs, **measured))
