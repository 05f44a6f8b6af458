"""What runs networks, and the machine on which they run."""

import importlib
import importlib.util
import io
import os
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from amc_env.latency.clock import CLOCKS, Clock, Run

Runtime = Literal["torch", "onnxruntime"]

_PACKAGES = {"torch": ("torch",), "onnxruntime": ("onnx", "onnxruntime")}


class Conditions(BaseModel):
    """Under what latencies were measured.

    Attributes:
        device: Where the network runs, such as ``cpu``.
        device_name: The name of the processor or the graphics card.
        runtime: What runs it.
        threads: Threads of the runtime on the processor.
        batch: Samples in one forward pass.
        clock: ``wall`` for the time that passes; ``processor`` for the time that one thread has
            the processor, which other load on the machine stretches less.
        versions: The version of every package that takes part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    device_name: str
    runtime: Runtime
    threads: int
    batch: int
    clock: Clock = "wall"
    versions: dict[str, str]

    @classmethod
    def here(
        cls, *, device: str, runtime: Runtime, threads: int, batch: int, clock: Clock = "wall"
    ) -> "Conditions":
        """The conditions on this machine.

        Raises:
            ValueError: The device or the runtime is not there, or a number is below 1.
        """
        for name, number in (("threads", threads), ("batch", batch)):
            if number < 1:
                raise ValueError(f"{name} is {number}; give 1 or more")
        _check_runtime(runtime, device)
        _check_clock(clock, device, threads)
        return cls(
            device=device,
            device_name=_device_name(device),
            runtime=runtime,
            threads=threads,
            batch=batch,
            clock=clock,
            versions={name: _version(name) for name in _PACKAGES[runtime]},
        )

    def differences(self, other: "Conditions") -> list[str]:
        """What is not the same, each as a few words."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [
            f"{name} {mine[name]} and not {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def is_installed(runtime: Runtime) -> bool:
    """Whether everything that a runtime needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES[runtime])


def all_threads() -> int:
    """How many threads this process may run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runner(network: nn.Module, inputs: Sequence[Tensor], *, runtime: Runtime, threads: int) -> Run:
    """A function that runs a network once on these inputs.

    The number of threads of PyTorch is that of the process when the function is called.

    Raises:
        ValueError: The network cannot be written as ONNX.
    """
    if runtime == "torch":
        return _torch_runner(network, inputs)
    return _onnx_runner(network, inputs, threads)


def _torch_runner(network: nn.Module, inputs: Sequence[Tensor]) -> Run:
    def run() -> None:
        with torch.inference_mode():
            network(*inputs)

    return run


def _onnx_runner(network: nn.Module, inputs: Sequence[Tensor], threads: int) -> Run:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _as_onnx(network, inputs), options, providers=["CPUExecutionProvider"]
    )
    # Of inputs that no operation reads, the file knows nothing.
    names = [given.name for given in session.get_inputs()]
    arrays = {f"input{number}": x.detach().cpu().numpy() for number, x in enumerate(inputs)}
    feeds = {name: arrays[name] for name in names}

    def run() -> None:
        session.run(None, feeds)

    return run


def _as_onnx(network: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    # A buffer serves as well as a file, which the annotation does not say.
    written: Any = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # The newer exporter takes seconds for each of some hundred layers, this one takes
            # milliseconds. What is timed is thrown away, and what a run exports is not written so.
            torch.onnx.export(
                network,
                tuple(inputs),
                written,
                input_names=[f"input{number}" for number in range(len(inputs))],
                dynamo=False,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the network cannot be written for onnxruntime: torch.onnx says {reason}; measure it "
            "with the runtime torch"
        ) from error
    content: bytes = written.getvalue()
    return content


def _check_runtime(runtime: str, device: str) -> None:
    if runtime not in _PACKAGES:
        raise ValueError(
            f"runtime {runtime!r} does not exist; choose one of {', '.join(_PACKAGES)}"
        )
    missing = [name for name in _PACKAGES[runtime] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the runtime {runtime} needs {' and '.join(missing)}, which is not installed; install "
            "the extra: pip install 'amc-env[onnx]'"
        )
    if runtime != "torch" and device != "cpu":
        raise ValueError(
            f"{runtime} is measured on the CPU only; give the device cpu, not {device}"
        )


def _check_clock(clock: str, device: str, threads: int) -> None:
    if clock not in CLOCKS:
        raise ValueError(f"clock {clock!r} does not exist; choose one of {', '.join(CLOCKS)}")
    if clock == "processor" and (device != "cpu" or threads > 1):
        raise ValueError(
            f"the clock processor tells the time of one thread on the CPU, and not of {threads} "
            f"on {device}; give the clock wall"
        )


def _device_name(device: str) -> str:
    try:
        kind = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used here: {why}") from error
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    return _processor() if kind.type == "cpu" else device


def _processor() -> str:
    """The name of the processor, which Python itself tells on few systems."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    return str(importlib.import_module(package).__version__)
