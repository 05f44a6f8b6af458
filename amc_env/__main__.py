"""``python -m amc_env inspect MODEL`` shows which channels of a model can be pruned."""

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from amc_env.models import find_model
from amc_env.structure import ChannelGraph
from amc_env.structure.inspection import summary, tables
from amc_env.structure.progress import progress_shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 2 when the arguments cannot be served."""
    options = _parser().parse_args(arguments)
    try:
        name, graph = _analysed(options)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps(summary(name, graph), indent=2) + "\n")
    else:
        Console().print(tables(name, graph))
    return 0


def _analysed(options: argparse.Namespace) -> tuple[str, ChannelGraph]:
    found = find_model(options.model)
    shape = options.input_shape or found.input_shape
    if shape is None:
        raise ValueError(f"give the shape of one sample of {found.name}: --input-shape 3,224,224")
    # Two samples, so that what mixes samples shows.
    with progress_shown(lambda line: sys.stderr.write(line + "\n")):
        graph = ChannelGraph(found.model, torch.zeros(2, *shape), ignore=options.ignore)
    return found.name, graph


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amc_env", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="show groups, costs and what cannot be cut")
    inspect.add_argument(
        "model", help="a model of this package, torchvision or timm, or FILE.py:FUNCTION"
    )
    inspect.add_argument(
        "--input-shape",
        type=_shape,
        metavar="C,H,W",
        help="shape of one sample; the model's own by default",
    )
    inspect.add_argument(
        "--ignore", action="append", default=[], metavar="MODULE", help="module that keeps all"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


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
