"""A policy reached in rounds: rank the channels, remove some, train the network, and again.

Musat and Andonie, "Spatial Aura Entropy", 2023, section 3, prune so: channels are ranked, a share
of them is removed, the network is trained for some epochs, and its channels are ranked again, until
every layer has the number of channels that it is to have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from amc_env import ChannelGraph, ChannelGroup, ChannelPruningEnv, Policy
from amc_env.calibration import Calibration
from amc_env.criteria import Criterion
from amc_env.data.datasets import Dataset
from amc_env.evaluation import Evaluator
from amc_env.memory import Memory
from amc_env.metric import ACCURACY
from amc_env.pipeline import stages
from amc_env.pipeline.failures import explained
from amc_env.pipeline.finetuning import fine_tuning_split
from amc_env.pipeline.round_counts import counts_by_round
from amc_env.pipeline.rounds import GroupScores, Iteration, Iterations
from amc_env.pipeline.run import Network, Run
from amc_env.pipeline.screen import say
from amc_env.pipeline.trainings import memory_for, train_
from amc_env.policy import GroupChoice
from amc_env.repair import Pruner
from amc_env.training import Training


def realise(
    run: Run, env: ChannelPruningEnv, networks: list[Network], data: Dataset
) -> list[Network]:
    """The networks until now, and the best policy's: repaired at once, or pruned in rounds.

    In rounds, the numbers of channels are those of the policy, and which channels stay is decided
    anew in every round. The last network is in the folder, with the scores of all rounds. An
    interruption leaves the networks until now.

    Raises:
        ValueError: A round failed; what the search found is in the folder.
    """
    if not run.config.iterative.rounds:
        return stages.repair(run, env, networks)
    if not run.is_complete:
        return [*networks]
    try:
        with explained("pruning in rounds", smaller="iterative.batch", saved=run.folder.saved):
            last = _Rounds(run, env, networks[-1], data).run_()
    except KeyboardInterrupt:
        run.is_complete = False
        return [*networks]
    stages.save(run, run.folder.path, env, last)
    return [*networks, last]


class RememberedCriterion(Criterion):
    """Another criterion, whose scores a memory is asked for before they are computed.

    Args:
        criterion: The criterion.
        memory: The memory, for one network.
    """

    name: str

    def __init__(self, criterion: Criterion, memory: Memory) -> None:
        self.name = criterion.name
        self.needs_samples = criterion.needs_samples
        self.needs_labels = criterion.needs_labels
        self.needs_grams = criterion.needs_grams
        self._criterion, self._memory = criterion, memory

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        def compute() -> list[float]:
            plain: list[float] = self._criterion.scores(group, calibration).detach().tolist()
            return plain

        known = self._memory(f"scores of {group.name}", compute)
        return torch.tensor(known, dtype=torch.float64)


@dataclass(kw_only=True, eq=False)
class _Stand:
    """The network after some rounds, and the original indices of the channels that it has."""

    number: int
    network: nn.Module
    kept: Mapping[str, Tensor]


class _Rounds:
    """The rounds of one policy."""

    def __init__(self, run: Run, env: ChannelPruningEnv, found: Network, data: Dataset) -> None:
        self._run, self._env, self._found = run, env, found
        self._fitted, held_out = fine_tuning_split(run, data)
        self._judge = Evaluator(held_out.resident(), precision="float32", task=env.task)
        self._iterations: list[Iteration] = []

    def run_(self) -> Network:
        """Go through all rounds, and return the last network."""
        settings, graph = self._run.config.iterative, self._env.graph
        target = self._found.result.best.counts
        whole = {group.name: torch.arange(group.channels) for group in graph.groups}
        stand = _Stand(number=0, network=graph.model, kept=whole)
        for counts in counts_by_round(graph, target, settings=settings):
            pruner = self._ranked(stand)
            self._note(stand, pruner)
            if stand.number:
                self._run.later_ranking_seconds += pruner.ranking_seconds
            stand = self._cut(stand, pruner, counts)
            self._train_(stand)
        self._note(stand, self._ranked(stand, is_last=True))
        Iterations(
            criterion=self._env.pruner.criterion.name, iterations=tuple(self._iterations)
        ).save(self._run.folder.path)
        policy = _with_kept(self._found.result.policy, stand.kept)
        result = replace(self._found.result, policy=policy, compact=stand.network)
        return replace(self._found, stage="iterative", result=result)

    def _ranked(self, stand: _Stand, *, is_last: bool = False) -> Pruner:
        """What ranks, cuts and repairs a network as it is now; the last one is only ranked."""
        if not stand.number:
            return self._env.pruner
        env, settings = self._env, self._env.settings
        memory = memory_for(self._run, f"round {stand.number}", stand.network)
        repair = replace(settings.repair, repair="none") if is_last else settings.repair
        return Pruner(
            ChannelGraph(
                stand.network,
                env.data.calibration.first(2),
                ignore=settings.ignore,
                round_to=env.graph.round_to,
            ),
            env.data.calibration,
            RememberedCriterion(env.pruner.criterion, memory),
            repair=repair,
            task=env.task,
        )

    def _cut(self, stand: _Stand, pruner: Pruner, counts: Mapping[str, int]) -> _Stand:
        """The network without the worst-ranked channels of every group."""
        fewer = {name: n for name, n in counts.items() if n < len(stand.kept[name])}
        # Indices are those of the network as it is now, in which channels have moved up.
        stay = pruner.kept(fewer)
        kept = {name: k[stay[name]] if name in stay else k for name, k in stand.kept.items()}
        return _Stand(number=stand.number + 1, network=pruner.realise(stay), kept=kept)

    def _train_(self, stand: _Stand) -> None:
        run, name = self._run, f"round-{stand.number}"
        settings = run.config.iterative
        training = Training(
            stand.network,
            self._fitted,
            settings.training,
            task=self._env.task,
            teacher=self._env.graph.model,
            seed=run.config.seed,
            memory=memory_for(run, name, stand.network),
        )
        train_(run, name, training, title=f"round {stand.number} of {settings.rounds}")

    def _note(self, stand: _Stand, pruner: Pruner) -> None:
        """Note the scores, and say how good the network is."""
        cost = self._env.graph.cost({name: len(k) for name, k in stand.kept.items()})
        accuracy = self._judge.evaluate(stand.network)
        groups = tuple(
            GroupScores(
                name=name,
                channels=tuple(stand.kept[name].tolist()),
                scores=tuple(scores.tolist()),
            )
            for name, scores in pruner.scores.items()
        )
        self._iterations.append(
            Iteration(
                number=stand.number, macs=cost.flops, held_out_accuracy=accuracy, groups=groups
            )
        )
        when = f"after round {stand.number}" if stand.number else "before the first round"
        say(
            f"{when}: {cost.flops / self._env.graph.cost().flops:.3f} of the "
            f"MACs, {self._told(accuracy)} {len(self._judge.split)} held-out training samples"
        )

    def _told(self, value: float) -> str:
        """The metric in words, up to the samples that it is of."""
        metric = self._run.metric
        is_known = metric == ACCURACY
        return f"{metric.text(value)} of" if is_known else f"{metric.name} {metric.text(value)} on"


def _with_kept(policy: Policy, kept: Mapping[str, Tensor]) -> Policy:
    """The policy with other channels in the same numbers."""
    groups = tuple(
        GroupChoice.model_validate(choice.model_dump() | {"kept": kept[choice.name].tolist()})
        for choice in policy.groups
    )
    return policy.model_copy(update={"groups": groups})
