"""Training a pruned network further, on training images that its search did not read."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from amc_env import ChannelPruningEnv
from amc_env.data import Source
from amc_env.data.datasets import Dataset
from amc_env.data.holding_out import hold_out
from amc_env.evaluation import Evaluator
from amc_env.pipeline.failures import explained
from amc_env.pipeline.run import Network, Run, choose
from amc_env.pipeline.screen import say
from amc_env.pipeline.trainings import memory_for, train_
from amc_env.training import Training


def finetune(
    run: Run, env: ChannelPruningEnv, networks: Sequence[Network], data: Dataset
) -> list[Network]:
    """The networks until now, and the repaired one trained further, if a run is to fine-tune.

    The original network is the teacher where the settings ask for one. Some training images are
    held out from the training, and both networks are measured on them.
    An interruption in the first epoch leaves the networks until now.

    Raises:
        ValueError: The training failed; the repaired network is in the folder.
    """
    config, last = run.config, networks[-1]
    if not run.is_complete or not config.finetune.epochs or not last.is_realised:
        return [*networks]
    fitted, held_out = fine_tuning_split(run, data)
    # The repaired network has to survive, for it may turn out to be the better one.
    tuned = copy.deepcopy(last.result.compact)
    if not finetune_(run, tuned, env.graph.model, fitted):
        return [*networks]
    both = [last, replace(last, stage="finetuned", result=replace(last.result, compact=tuned))]
    judge = Evaluator(held_out.resident(), precision="float32", task=run.parts.task)
    metric = run.metric
    measured = [
        replace(network, held_out_accuracy=judge.evaluate(network.result.compact))
        for network in both
    ]
    figures = ", ".join(f"{metric.text(n.held_out_accuracy or 0.0)} {n.stage}" for n in measured)
    say(
        f"{metric.name} on {len(held_out)} held-out training samples: {figures}; "
        f"the {choose(measured).stage} network is kept"
    )
    return [*networks[:-1], *measured]


def fine_tuning_split(run: Run, data: Dataset) -> tuple[Source, Source]:
    """Training images to fine-tune on, and others to compare networks on."""
    split = run.config.split
    return hold_out(
        data.train,
        calibration=split.calibration,
        validation=split.validation,
        selection=split.selection,
        seed=run.config.seed,
    )


def finetune_(
    run: Run, network: nn.Module, teacher: nn.Module, fitted: Source, *, name: str = "finetune"
) -> bool:
    """Train a network as the run fine-tunes; whether at least one epoch was finished.

    Args:
        run: The run.
        network: The network.
        teacher: Whose class scores it learns from, where the settings ask for it.
        fitted: The training images.
        name: Of the training.
    """
    config, memory = run.config, memory_for(run, name, network)
    training: Training | None = None
    with explained("fine-tuning", smaller="finetune.batch", saved=run.folder.saved):
        try:
            training = Training(
                network,
                fitted,
                config.finetune,
                task=run.parts.task,
                teacher=teacher,
                seed=config.seed,
                memory=memory,
            )
            train_(run, name, training, title="fine-tuning")
        except KeyboardInterrupt:
            run.is_complete = False
    return training is not None and training.epoch > 0
