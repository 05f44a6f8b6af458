"""The formats that a finished run is exported to, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from amc_env.export.finished import Finished, read_finished
from amc_env.export.layers import write_csv, write_yaml
from amc_env.export.programs import write_onnx, write_program
from amc_env.export.weights import write_weights
from amc_env.export.yolo import write_checkpoint
from amc_env.names import check_name

FORMATS: Mapping[str, Callable[[Finished, Path], list[Path]]] = {
    "torch_export": write_program,
    "safetensors": write_weights,
    "yaml": write_yaml,
    "csv": write_csv,
    "onnx": write_onnx,
    "yolo": write_checkpoint,
}


def export(
    folder: Path, formats: Sequence[str], *, out: Path, model: str | None = None
) -> Iterator[Path]:
    """Write a finished run in these formats, and give every file as soon as it is written.

    Args:
        folder: The run's folder.
        formats: Names from ``FORMATS``.
        out: The folder for the files.
        model: What builds the original network; by default what the policy names.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A format does not exist or cannot be written; or a file of the run is damaged.
    """
    for name in formats:
        check_name("format", name, FORMATS)
    run = read_finished(folder, model)
    for name in _with_needed(formats):
        yield from FORMATS[name](run, out)


def _with_needed(formats: Sequence[str]) -> list[str]:
    """The formats, each once, and the program that the script beside the weights reads."""
    needed = ["torch_export"] if "safetensors" in formats else []
    return list(dict.fromkeys([*formats, *needed]))
