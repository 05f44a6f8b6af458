"""The network as a program that runs without its code: of ``torch.export``, and ONNX.

Each is loaded back and compared with PyTorch before its file takes its name.
"""

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amc_env.batches import Batch, call, tensors_in
from amc_env.export.finished import Finished, any_batch, one_line
from amc_env.extras import need
from amc_env.files import atomic

PROGRAM_FILE = "network.pt2"
ONNX_FILE = "network.onnx"
# Largest difference of an output, relative to the largest.
TOLERANCE = 1e-4

_BATCHES = (1, 3)
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Runner = Callable[[Batch], Iterable[Tensor]]


def write_program(run: Finished, out: Path) -> list[Path]:
    """Write ``network.pt2``, which ``torch.export.load`` reads.

    Raises:
        ValueError: The network cannot be exported, or the program computes something else.
    """
    path = out / PROGRAM_FILE
    with atomic(path) as temporary:
        # Given a path, torch insists on its ending.
        with temporary.open("wb") as file:
            torch.export.save(run.program, file)
        with temporary.open("rb") as file:
            loaded = torch.export.load(file).module()
        check_agrees(run, path, lambda inputs: tensors_in(call(loaded, inputs)))
    return [path]


def write_onnx(run: Finished, out: Path) -> list[Path]:
    """Write ``network.onnx``.

    Raises:
        ValueError: A package is missing, the network cannot be exported, or the program computes
            something else.
    """
    need("the format onnx", *_ONNX_PACKAGES, extra="onnx")
    _check_plain(run)
    path = out / ONNX_FILE
    with atomic(path) as temporary:
        _write_onnx(run, temporary)
        check_agrees(run, path, _onnx_runner(temporary))
    return [path]


@torch.no_grad()
def check_agrees(run: Finished, path: Path, runner: Runner) -> None:
    """Refuse a program whose outputs differ from those of the network on random inputs.

    Raises:
        ValueError: They differ.
    """
    for count in _BATCHES:
        inputs = run.samples(count)
        wanted = [output.double() for output in tensors_in(call(run.network, inputs))]
        given = [output.double() for output in runner(inputs)]
        if [x.shape for x in given] != [x.shape for x in wanted]:
            raise ValueError(
                f"{path} is not written, because its outputs have other shapes than the network's "
                f"in PyTorch on a batch of {count}; use another format"
            )
        difference = max(map(_difference, given, wanted), default=0.0)
        # Also true where the difference is no number.
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path} is not written, because its outputs differ from those of PyTorch by "
                f"{difference:.1e} of the largest on a batch of {count}, and {TOLERANCE:.0e} "
                "is allowed; use another format"
            )


def _difference(given: Tensor, wanted: Tensor) -> float:
    largest = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    return float((given - wanted).abs().max() / largest)


def _write_onnx(run: Finished, path: Path) -> None:
    program, shapes = run.program, any_batch(run.samples(1))
    try:
        # The exporter warns of its own plans, about which a user can do nothing.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise ValueError(
            f"{run.policy.model} cannot be exported as ONNX: torch.onnx says {one_line(error)}; "
            "use the format torch_export"
        ) from error


def _onnx_runner(path: Path) -> Runner:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Batch) -> Iterable[Tensor]:
        arrays = [given.cpu().numpy() for given in tensors_in(inputs)]
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return run


def _check_plain(run: Finished) -> None:
    """Refuse a network whose arguments are more than tensors one after the other."""
    example = run.graph.example
    parts = () if isinstance(example, Mapping) else example
    if not isinstance(example, Tensor) and not (
        parts and all(isinstance(x, Tensor) for x in parts)
    ):
        raise ValueError(
            f"{run.policy.model} takes its inputs by name or in nested groups, which an ONNX file "
            "does not hold; use the format torch_export"
        )
