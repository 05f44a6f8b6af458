"""Published repairs of pruned networks beside ours, on the same kept channels.

``uv run python -m benchmarks.rivals FOLDER --out OUT`` prunes ResNet-56 with its published weights
to half the MACs: every group by the same share (uniform), and by ``error_curves`` or by the counts
of a policy. Every repair gets the same numbers of channels and, but for folding, the same channels.
Without FOLDER a small CNN is trained on digits first, which shows in seconds that everything runs.

The tables hold accuracies in per cent on the test images before any fine-tuning, means over the
draws of calibration images with their deviation; differences in points to our sequential repair,
paired over images, with intervals of 95 %; and seconds of the processor. Those of our repairs
include taking the network apart, calibration and factoring, which a search pays once.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from amc_env.evaluation import Evaluator
from benchmarks.rivals.experiment import Run, Settings, compare
from benchmarks.rivals.methods import METHODS, REFERENCE, checked_methods
from benchmarks.rivals.report import markdown, write_rows
from benchmarks.subjects import Subject, is_right, published, trained_digits


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the tables, and write them to a folder."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(
        methods=checked_methods(options.methods),
        seeds=tuple(options.seeds),
        calibration=options.calibration,
        budget=options.budget,
        criterion=options.criterion,
        policy=options.policy,
    )
    subject = (
        published(options.folder, options.model, data=options.data)
        if options.folder
        else trained_digits()
    )
    runs: list[Run] = []
    for run in compare(subject, settings):
        runs.append(run)
        _show(run)
        # After every run, so that one that is ended early leaves its rows.
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            rows = options.out / f"rivals_{subject.name}.csv"
            write_rows(rows, runs, _image_sets(subject))
    page = _page(subject, settings, runs)
    print(page)
    if options.out:
        (options.out / f"rivals_{subject.name}.md").write_text(page + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder with data/ and models/")
    parser.add_argument(
        "--model", default="cifar_resnet56", help="a network with published weights"
    )
    parser.add_argument("--data", type=Path, help="an .npz; test_lossless says what is original")
    parser.add_argument("--budget", type=float, default=0.5, help="ratio of MACs that is left")
    parser.add_argument("--policy", type=Path, help="policy.json with the second allocation")
    parser.add_argument("--criterion", default="l2", help="ranks the channels")
    parser.add_argument("--calibration", type=int, default=500, help="images of each draw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for rivals_MODEL.md and .csv")
    return parser


def _page(subject: Subject, settings: Settings, runs: Sequence[Run]) -> str:
    before = is_right(Evaluator(subject.test, precision="float32"), subject.model)
    seeds = ", ".join(map(str, settings.seeds))
    setting = (
        f"{subject.name} at {settings.budget} of its MACs; criterion `{settings.criterion}`; "
        f"{settings.calibration} calibration images, seeds {seeds}; torch {torch.__version__}, "
        f"{platform.machine()}, threads: {torch.get_num_threads()}."
    )
    parts = [setting]
    for name, mask in _image_sets(subject).items():
        base = 100 * float(before[mask].double().mean())
        parts.append(f"{int(mask.sum()):,} {name} test images, {base:.1f} % before pruning:")
        parts.append(markdown(runs, mask, reference=METHODS[REFERENCE].label))
    return "\n\n".join(parts)


def _image_sets(subject: Subject) -> dict[str, Tensor]:
    """Masks of the test images: the original ones, and all where some are re-encoded."""
    sets = {"original": subject.is_original}
    if not subject.is_original.all():
        sets["original and re-encoded"] = torch.ones_like(subject.is_original)
    return sets


def _show(run: Run) -> None:
    accuracy = float(run.is_right.double().mean())
    print(
        f"seed {run.seed}, {run.allocation}: {run.method}: {accuracy:.4f}, {run.seconds:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
