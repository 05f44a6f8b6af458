"""Reference networks, built by name, and the loading of trained weights."""

from amc_env.models.checkpoint import copy_weights_, load_checkpoint_, read_checkpoint
from amc_env.models.lookup import MODEL, NamedModel, find_model
from amc_env.models.zoo import MODELS, ModelEntry, build_model, model_entry

__all__ = [
    "MODEL",
    "MODELS",
    "ModelEntry",
    "NamedModel",
    "build_model",
    "copy_weights_",
    "find_model",
    "load_checkpoint_",
    "model_entry",
    "read_checkpoint",
]
