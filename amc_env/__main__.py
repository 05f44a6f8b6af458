"""Search for a policy, see what can be pruned in a model, take away what a run has left."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    from amc_env.pipeline.main import command

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
    shape = options.input_shape or found.input_shape
    if shape is None:
        raise ValueError(f"give the shape of one sample of {found.name}: --input-shape 3,224,224")
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
    from amc_env.export.replay import replay

    policy = replay(options.policy, options.model, out=options.out, weights=options.weights)
    weights = options.weights or f"those that {options.model} is built with; give --weights FILE"
    sys.stdout.write(
        f"wrote the pruned {policy.model} to {options.out}\n"
        f"its weights: {weights}\n"
        "they were only cut and are not repaired: fine-tune the network, or give it to "
        "amc_env.repair with some hundred training images\n"
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amc_env", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train_(commands)
    _add_inspect_(commands)
    _add_export_(commands)
    _add_apply_(commands)
    _add_report_(commands)
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
    parser.add_argument(
        "--input-shape",
        type=_shape,
        metavar="C,H,W",
        help="shape of one sample; the model's own by default",
    )
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
        help="formats, parted by commas; all by default: %(default)s",
    )
    parser.add_argument("--model", help=f"the original: {_MODEL}; as in the run by default")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder; RUN/export by default")


def _add_apply_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("apply", help="cut a model with other weights by a policy")
    parser.set_defaults(run=_apply)
    parser.add_argument("policy", type=Path, help="policy.json, or the folder that holds it")
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its trained weights")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def _add_report_(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("report", help="write a page about one run or several")
    parser.set_defaults(run=_report)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="RUN/report.html by default")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="folder for its charts as PNG and SVG too"
    )


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
