"""Models by name, by the path of a user's own code, or as objects.

torchvision and timm take seconds to import. They are therefore imported inside the functions that
list their models, which are only called for names that are not in the package's own table.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from amc_env.models.yolo import yolo
from amc_env.models.zoo import MODELS, build_model
from amc_env.names import Kind, name_of

_IMAGENET = (3, 224, 224)
_YOLO = (3, 640, 640)
# Without this, these two warn that their slow initial values will change.
_QUIET_BUILD = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
_LARGER_INPUTS = {"inception_v3": (3, 299, 299)}


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model in evaluation mode, and the shape of one sample.

    ``input_shape`` is None where only the caller can know it.
    """

    name: str
    model: nn.Module
    input_shape: tuple[int, ...] | None


def find_model(source: str | nn.Module, options: Mapping[str, Any] | None = None) -> NamedModel:
    """The model that a name or a path stands for, with fresh weights; an object is taken as it is.

    Args:
        source: A name of this package's table, of torchvision or of timm, looked up in that order;
            the name of an entry point in the group ``amc_env.models``; the path of a class or
            function that returns the model, ``FILE.py:FUNCTION`` or ``PACKAGE.MODULE.FUNCTION``; or
            a model file of Ultralytics, ``yolo11n.yaml`` or ``FILE.pt``.
        options: Arguments of the function that builds the model, such as ``num_classes``.

    Raises:
        ValueError: Nothing has that name, or the model cannot be built.
    """
    given = dict(options or {})
    if isinstance(source, str) and source in MODELS:
        # The same name gives the same weights, whatever has been drawn before.
        given = {"seed": 0, **given}
    model = MODEL.make(source, given).eval()
    if not isinstance(source, str):
        return NamedModel(name=name_of(model), model=model, input_shape=None)
    return NamedModel(name=source, model=model, input_shape=_input_shape(source, model))


def _input_shape(source: str, model: nn.Module) -> tuple[int, ...] | None:
    if source in MODELS:
        return MODELS[source].input_shape
    if type(model).__module__.startswith("torchvision.") and source in _of_torchvision():
        return _LARGER_INPUTS.get(source, _IMAGENET)
    if Path(source).suffix in MODEL.files:
        return _YOLO
    # timm describes the images that a model was trained on.
    description = getattr(model, "default_cfg", None) or {}
    shape = description.get("input_size")
    return None if shape is None else tuple(shape)


def _of_torchvision() -> Mapping[str, Callable[..., nn.Module]]:
    import torchvision

    return {
        name: partial(
            torchvision.models.get_model, name, weights=None, **_QUIET_BUILD.get(name, {})
        )
        for name in torchvision.models.list_models(module=torchvision.models)
    }


def _of_timm() -> Mapping[str, Callable[..., nn.Module]]:
    if importlib.util.find_spec("timm") is None:
        return {}
    timm: Any = importlib.import_module("timm")
    # A pretrained name, such as resnet18.a1_in1k, has the architecture of its first part.
    names = [*timm.list_models(), *timm.list_pretrained()]
    return {name: partial(timm.create_model, name, pretrained=False) for name in names}


MODEL: Kind[nn.Module] = Kind(
    title="model",
    entry_points="amc_env.models",
    makers={name: partial(build_model, name) for name in MODELS},
    libraries=(_of_torchvision, _of_timm),
    files={".yaml": yolo, ".pt": yolo},
    is_made=lambda thing: isinstance(thing, nn.Module),
)
