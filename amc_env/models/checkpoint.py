"""Loading trained weights from a file into a network: all of them, or none."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TORCH_SUFFIXES = (".th", ".pt", ".pth", ".ckpt", ".bin", ".tar")
SAFETENSORS_SUFFIX = ".safetensors"

# Keys under which training scripts store the weights in a larger dictionary, commonest first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")

# Prefixes that DataParallel, Lightning, torch.compile and feature extractors add to all names.
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "backbone.")

# BatchNorm's count of batches does not affect any output, and old checkpoints lack it.
OPTIONAL_SUFFIX = "num_batches_tracked"

SHOWN = 3


def load_checkpoint_(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in ``path`` into ``model``; if any does not fit, nothing is copied.

    Names and shapes must agree exactly, with two exceptions: a prefix such as ``module.`` that
    all names in the file have and no name in the model has, and BatchNorm's
    ``num_batches_tracked``, which older files lack. Dtype and device stay those of the model.

    Raises:
        FileNotFoundError: There is no file at ``path``.
        ValueError: The file holds no weights that can be read safely, or values that are not
            finite, or the weights of another model.
    """
    given = read_checkpoint(path)
    expected = {name: value for name, value in model.state_dict().items() if _is_tensor(value)}
    given = _strip_prefixes(given, expected)
    complaints = _complaints(given, expected)
    if complaints:
        raise ValueError(
            f"checkpoint {path} does not fit {type(model).__name__}: {'; '.join(complaints)}. "
            "Build the model as it was when the checkpoint was saved "
            "(same architecture, widths, num_classes and in_channels), or choose its own checkpoint"
        )
    broken = [name for name, value in given.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"checkpoint {path} holds NaN or infinite values in {_first(broken)}; "
            "choose one that was saved before the training diverged"
        )
    copy_weights_(model, given)


def copy_weights_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the parameters and buffers of these names; all others stay.

    Raises:
        RuntimeError: The model has no such names, or other shapes.
    """
    # Beside the tensors, PyTorch's dictionaries keep the versions of their modules, which files
    # mostly lack and torchvision's MNASNet asks for. Here they are the model's own.
    state = model.state_dict()
    state.update(weights)
    model.load_state_dict(state)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights in ``path`` by name, on the CPU, without the dictionaries around them.

    Raises:
        FileNotFoundError: There is no file at ``path``.
        ValueError: The file holds no weights, or none that can be read safely.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist; check the path")
    if path.is_dir():
        raise ValueError(f"checkpoint {path} is a folder; give the path of a file in it")
    if path.suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _unwrap(_read_torch(path), path)
    raise ValueError(
        f"checkpoint {path} has the unknown suffix {path.suffix!r}; "
        f"known are {', '.join((*TORCH_SUFFIXES, SAFETENSORS_SUFFIX))}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or it is damaged ({error}); save or copy it again"
        ) from error


def _read_torch(path: Path) -> object:
    """The content of a file of ``torch.save``, which may be tensors and plain containers only."""
    with path.open("rb") as file, warnings.catch_warnings():
        # torch warns of what the exception below explains.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            # On bytes that are not a checkpoint, the unpickler may raise any kind of exception.
            raise ValueError(_why_unreadable(path, error)) from error


def _why_unreadable(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return (
            f"checkpoint {path} holds a Python object ({refused[1]}) beside its tensors and stays "
            "closed, because unpickling one can run any code; where it came from, save it again "
            "with torch.save(model.state_dict(), path)"
        )
    if "TorchScript" in str(error):
        return (
            f"{path} is a TorchScript program, not a checkpoint; where it came from, save the "
            "weights with torch.save(model.state_dict(), path)"
        )
    return (
        f"{path} is not a checkpoint that torch.load can read, or it is damaged "
        f"({type(error).__name__}); save or copy it again"
    )


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The innermost dictionary, which must hold tensors; each wrapper is opened at most once."""
    for _ in WRAPPERS:
        if isinstance(content, Mapping):
            inner = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
            content = next(inner, content)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights; "
            "save it again with torch.save(model.state_dict(), path)"
        )
    others = [str(key) for key, value in content.items() if not _is_tensor(value)]
    if others or not content:
        found = f"entries that are no tensors ({_first(others)})" if others else "no entries"
        raise ValueError(
            f"checkpoint {path} has {found} where weights should be; they are looked for at the "
            f"top and under {', '.join(WRAPPERS)}"
        )
    return {str(name): value for name, value in content.items()}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _strip_prefixes(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``given`` without the prefixes that all its names have and no expected name has."""
    stripped = dict(given)
    candidates = [
        prefix for prefix in PREFIXES if not any(name.startswith(prefix) for name in expected)
    ]
    while stripped:
        shared = [p for p in candidates if all(name.startswith(p) for name in stripped)]
        if not shared:
            break
        stripped = {name.removeprefix(shared[0]): value for name, value in stripped.items()}
    return stripped


def _complaints(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """One clause for each kind of difference between two sets of weights."""
    missing = [
        name for name in expected if name not in given and not name.endswith(OPTIONAL_SUFFIX)
    ]
    unexpected = [name for name in given if name not in expected]
    differing = [
        f"{name} is {_form(value)} in the checkpoint and {_form(expected[name])} in the model"
        for name, value in given.items()
        if name in expected and _form(value) != _form(expected[name])
    ]
    clauses = {
        "missing from the checkpoint": missing,
        "unknown to the model": unexpected,
        "of another form": differing,
    }
    return [f"{len(names)} {what} ({_first(names)})" for what, names in clauses.items() if names]


def _form(value: Tensor) -> str:
    """Shape, and the type of integers; floating-point weights may have any precision."""
    if value.is_floating_point():
        return f"{tuple(value.shape)}"
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _first(names: Iterable[str]) -> str:
    """The first few of ``names``, followed by dots if there are more."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
