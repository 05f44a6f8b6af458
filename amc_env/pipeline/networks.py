"""The network that a run's settings name, and what is noted of it for those who load the result."""

from urllib.error import URLError

from torch import nn

from amc_env.data.datasets import Dataset
from amc_env.models import MODELS
from amc_env.models.lookup import MODEL
from amc_env.pipeline.config import RunConfig
from amc_env.policy import ModelSource
from amc_env.tasks import Task

# The option by which a library's models are built with trained weights.
_WEIGHTS = "weights"


def source_of(config: RunConfig, data: Dataset, task: Task) -> ModelSource:
    """What builds the network; a network of this package is made to fit the data.

    Raises:
        ValueError: The network gives class scores, and the task has no classes.
    """
    section = config.model
    name = section.target or section.name or ""
    if section.target or name not in MODELS:
        # What loads the result has its weights, and need not download others before.
        options = {key: value for key, value in section.options.items() if key != _WEIGHTS}
        return ModelSource(name=name, options=section.options if section.target else options)
    if not task.has_classes and "num_classes" not in section.options:
        raise ValueError(
            f"the model {name} gives class scores, but the task {task.name} has no class for each "
            "sample; give a network of its own by model._target_, or the number of outputs as "
            "model.options.num_classes"
        )
    channels = data.train.shapes[0][0]
    fitting = {"num_classes": data.classes, "in_channels": channels}
    return ModelSource(name=name, options={**fitting, **section.options})


def network_of(config: RunConfig, source: ModelSource) -> nn.Module:
    """The network, with fresh weights where it is one of this package's.

    Raises:
        ValueError: The network does not exist, or its weights cannot be downloaded.
    """
    section = config.model
    if section.target or source.name not in MODELS:
        try:
            return section.make(MODEL)
        except URLError as error:
            raise ValueError(
                f"the weights {section.options.get(_WEIGHTS)} of {source.name} could not be "
                f"downloaded ({error.reason}); give model.options.weights=null and a file as "
                "model.checkpoint"
            ) from error
    return MODEL.make(source.name, {"seed": config.seed, **source.options})
