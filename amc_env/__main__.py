"""Search, see what can be pruned, time layers, take away what a run has left."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amc_env.models.lookup import NamedModel

# PyTorch takes seconds to import, so each command imports what it needs when it runs.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 2 when the arguments cannot be served."""
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return status or 0


def _train(options: argparse.Namespace) -> int:
    from amc_env.studies.main import command

    return command(options.arguments)


def _inspect(options: argparse.Namespace) -> None:
    import json

    import torch
    from rich.console import Console

    from amc_env.models import find_model
    from amc_env.structure import ChannelGraph
    from amc_env.structure.inspection import summary, tables
    from amc_env.structure.progress import progress_shown

    found = find_model(options.model)
    shape = _shape_of(found, options.input_shape)
    # Two samples, so that what mixes samples shows.
    with progress_shown(lambda line: sys.stderr.write(line + "\n")):
        graph = ChannelGraph(found.model, torch.zeros(2, *shape), ignore=options.ignore)
    if options.json:
        sys.stdout.write(json.dumps(summary(found.name, graph), indent=2) + "\n")
    else:
        Console().print(tables(found.name, graph))


def _export(options: argparse.Namespace) -> None:
    from amc_env.export.formats import export

    out = options.out or options.folder / "export"
    for path in export(options.folder, options.to.split(","), out=out, model=options.model):
        sys.stdout.write(f"wrote {path}\n")


def _apply(options: argparse.Namespace) -> None:
    from amc_env.export.replay import images_of, replay

    images = images_of(options.data, options.images) if options.data else None
    policy = replay(
        options.policy, options.model, out=options.out, weights=options.weights, images=images
    )
    weights = options.weights or f"those that {options.model} is built with; give --weights FILE"
    sys.stdout.write(f"wrote the pruned {policy.model} to {options.out}\nits weights: {weights}\n")
    sys.stdout.write(
        f"they were repaired on training images of {options.data}; fine-tune the network\n"
        if options.data
        else "they were only cut and are not repaired: give --data with training images, or "
        "fine-tune the network\n"
    )


def _report(options: argparse.Namespace) -> None:
    from amc_env.report import write_report

    out = options.out or options.folders[0] / "report.html"
    write_report(options.folders, out)
    sys.stdout.write(f"wrote {out}\n")
    if options.figures:
        from amc_env.report.figures import write_figures

        for path in write_figures(options.folders, options.figures):
            sys.stdout.write(f"wrote {path}\n")


def _measure(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from amc_env.latency import Conditions
    from amc_env.latency.measuring import MeasureSettings, measure
    from amc_env.models import find_model, load_checkpoint_

    conditions = Conditions.here(
        device=options.device,
        runtime=options.runtime,
        threads=options.threads,
        batch=options.batch,
        clock=options.clock,
    )
    found = find_model(options.model)
    if options.weights:
        load_checkpoint_(found.model, options.weights)
    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task("measuring", total=None)
        table = measure(
            replace(found, input_shape=_shape_of(found, options.input_shape)),
            options.out,
            conditions=conditions,
            settings=MeasureSettings(levels=options.levels, seconds=options.seconds),
            advance=lambda done, total: bars.update(task, completed=done, total=total),
        )
    original = table.networks[0]
    sys.stdout.write(
        f"wrote {options.out}\n"
        f"{found.name} takes {original.median_ms:.3g} ms for {options.batch}; its steps favour "
        f"multiples of {table.multiple}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amc_env", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train_(commands)
    _add_inspect_(commands)
    _add_export_(commands)
    _add_apply_(commands)
    _add_report_(commands)
    _add_measure_(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 -- argparse has no public name for it.
_MODEL = "a model of this package, torchvision or timm, or FILE.py:FUNCTION"


def _add_train_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    # Its arguments are Hydra's, and none of them is an option here: none begins with a line end.
    parser = commands.add_parser(
        "train", help="search, prune, repair; train --help", add_help=False, prefix_chars="\n"
    )
    parser.set_defaults(run=_train)
    parser.add_argument("arguments", nargs="*")


def _add_inspect_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("inspect", help="show groups, costs and what cannot be cut")
    parser.set_defaults(run=_inspect)
    parser.add_argument("model", help=_MODEL)
    _add_input_shape_(parser)
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="MODULE", help="module that keeps all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_export_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("export", help="write a run's network in other formats")
    parser.set_defaults(run=_export)
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--to",
        default="torch_export,safetensors,yaml,csv,onnx",
        metavar="FORMATS",
        help="formats, parted by commas: %(default)s by default, and yolo for Ultralytics",
    )
    parser.add_argument("--model", help=f"the original: {_MODEL}; as in the run by default")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder; RUN/export by default")


def _add_apply_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("apply", help="cut a model with other weights by a policy")
    parser.set_defaults(run=_apply)
    parser.add_argument("policy", type=Path, help="policy.json, or the folder that holds it")
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its trained weights")
    parser.add_argument(
        "--data",
        help="repair it on training images: a data set by its name, an .npz of arrays, or a folder",
    )
    parser.add_argument("--images", type=int, default=500, help="how many; %(default)s by default")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def _add_report_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("report", help="write a page about one run or several")
    parser.set_defaults(run=_report)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="RUN/report.html by default")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="folder for its charts as PNG and SVG too"
    )


def _add_measure_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("measure", help="time every layer at many numbers of channels")
    parser.set_defaults(run=_measure)
    parser.add_argument("model", help=_MODEL)
    _add_input_shape_(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its trained weights")
    parser.add_argument("--runtime", default="torch", help="torch (default) or onnxruntime")
    parser.add_argument("--threads", type=int, default=1, help="threads of it; %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="samples at once; %(default)s")
    parser.add_argument("--device", default="cpu", help="such as cuda; %(default)s by default")
    parser.add_argument(
        "--clock",
        default="wall",
        help="wall (default), or processor: one thread's own time, for a busy machine",
    )
    parser.add_argument(
        "--levels",
        type=int,
        default=7,
        help="numbers of channels in each group: 3, 5, 7 (default) or 11",
    )
    parser.add_argument(
        "--seconds", type=float, default=0.01, help="about the time for one point; %(default)s"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the table, such as table.json; if it is there and not finished, it is continued",
    )


def _add_input_shape_(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-shape",
        type=_shape,
        metavar="C,H,W",
        help="shape of one sample; the model's own by default",
    )


def _shape_of(found: "NamedModel", given: tuple[int, ...] | None) -> tuple[int, ...]:
    shape = given or found.input_shape
    if shape is None:
        raise ValueError(f"give the shape of one sample of {found.name}: --input-shape 3,224,224")
    return shape


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write it like 3,224,224")
    return shape


if __name__ == "__main__":
    sys.exit(main())
