"""Models by name or file: this package's, torchvision's, timm's, or one's own."""

import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchvision
from torch import nn

from amc_env.models.zoo import MODELS, build_model

if TYPE_CHECKING:
    from collections.abc import Callable

_IMAGENET = (3, 224, 224)
# Without this, these two warn that their slow initial values will change.
_QUIET_BUILD = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
_LARGER_INPUTS = {"inception_v3": (3, 299, 299)}


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model with fresh weights, in evaluation mode, and the shape of one sample.

    ``input_shape`` is None where only the caller can know it.
    """

    name: str
    model: nn.Module
    input_shape: tuple[int, ...] | None


def find_model(source: str) -> NamedModel:
    """Build the model that ``source`` names.

    Args:
        source: A name of this package's zoo, of torchvision or of timm, looked up in that order;
            or ``FILE.py:FUNCTION``, a function without arguments that returns the model.

    Raises:
        ValueError: Nothing has that name; the message gives the nearest.
    """
    path, colon, function = source.rpartition(":")
    if colon and path.endswith(".py"):
        return NamedModel(name=source, model=_from_file(Path(path), function), input_shape=None)
    if source.endswith(".py"):
        raise ValueError(f"{source} names no function; write {source}:FUNCTION")
    if source in MODELS:
        model = build_model(source, seed=0)
        return NamedModel(name=source, model=model.eval(), input_shape=MODELS[source].input_shape)
    if source in _torchvision_names():
        model = torchvision.models.get_model(source, weights=None, **_QUIET_BUILD.get(source, {}))
        shape = _LARGER_INPUTS.get(source, _IMAGENET)
        return NamedModel(name=source, model=model.eval(), input_shape=shape)
    return _from_timm(source)


def _torchvision_names() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def _from_timm(source: str) -> NamedModel:
    known = [*MODELS, *_torchvision_names()]
    if importlib.util.find_spec("timm") is not None:
        timm: Any = importlib.import_module("timm")
        if timm.is_model(source):
            model = timm.create_model(source, pretrained=False)
            shape = tuple(model.default_cfg["input_size"])
            return NamedModel(name=source, model=model.eval(), input_shape=shape)
        known += timm.list_models()
    (nearest,) = get_close_matches(source, known, n=1, cutoff=0.0)
    raise ValueError(
        f"no model is called {source!r}; the nearest name is {nearest!r}; for your own model "
        "give FILE.py:FUNCTION, where FUNCTION() returns it"
    )


def _from_file(path: Path, function: str) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build: Callable[[], object] | None = getattr(module, function, None)
    if not callable(build):
        raise ValueError(f"{path} has no function {function!r}")
    model = build()
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{function}() in {path} returned a {type(model).__name__}; return a torch.nn.Module"
        )
    return model.eval()
