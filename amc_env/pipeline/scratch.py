"""The found architecture with fresh weights, to see what the trained ones are worth."""

import copy
from dataclasses import replace

from amc_env.data.datasets import Dataset
from amc_env.models.initial import forget_training_
from amc_env.pipeline.failures import explained
from amc_env.pipeline.finetuning import fine_tuning_split
from amc_env.pipeline.run import Network, Run
from amc_env.pipeline.trainings import memory_for, train_
from amc_env.training import Training


def from_scratch(run: Run, last: Network, data: Dataset) -> list[Network]:
    """The architecture of a network, trained from fresh weights, if a run is to do so.

    It is trained on the images of the fine-tuning, shown beside the others and never exported. An
    interruption leaves none.

    Raises:
        ValueError: The network has weights that cannot be drawn anew, or the training failed.
    """
    config = run.config
    if not run.is_complete or not config.scratch.epochs:
        return []
    fresh = copy.deepcopy(last.result.compact)
    forget_training_(fresh, seed=config.seed)
    fitted, _ = fine_tuning_split(run, data)
    with explained("training from scratch", smaller="scratch.batch", saved=run.folder.saved):
        try:
            memory = memory_for(run, "scratch", fresh)
            training = Training(
                fresh,
                fitted,
                config.scratch,
                task=run.parts.task,
                seed=config.seed,
                memory=memory,
            )
            train_(run, "scratch", training, title="from scratch")
        except KeyboardInterrupt:
            run.is_complete = False
            return []
    return [replace(last, stage="from scratch", result=replace(last.result, compact=fresh))]
