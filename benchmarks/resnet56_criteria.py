"""Accuracy of a pruned ResNet-56 on CIFAR-10 before fine-tuning, by criterion and kind of repair.

Every block's inner group is cut to a share by each criterion; 300 calibration images come from the
original training images, accuracy is on the 1,017 original test images. Writes a CSV file and the
table of it in Markdown.
"""

import argparse
import csv
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from amc_env import ChannelGraph, ChannelGroup
from amc_env.calibration import Calibration, calibrate
from amc_env.calibration.rows import RowSampling
from amc_env.criteria import CRITERIA, make_criterion, scores_by_group
from amc_env.criteria.ranking import ranking
from amc_env.models import build_model, load_checkpoint_
from amc_env.repair.plan import Reconstruction, repaired_layers
from amc_env.repair.sequential import SequentialSettings, repair_sequentially_

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SHARES = (0.75, 0.6, 0.5)
COLUMNS = ("criterion", "score_s", "share", "flops", "none", "repair", "sequential")


def normalised(images: np.ndarray) -> Tensor:
    """Bytes (N, H, W, 3) as the network's input."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - MEAN) / DEVIATION


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images classified right."""
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    )
    return right / len(labels)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A trained network and its data."""

    graph: ChannelGraph
    calibration: Calibration
    inner: list[ChannelGroup]
    test: tuple[Tensor, Tensor]
    sampling: RowSampling


def prepare(options: argparse.Namespace) -> Setting:
    """Load network and data, and calibrate."""
    data = np.load(options.shared / "data" / "cifar10_lossless.npz")
    model = build_model("cifar_resnet56")
    load_checkpoint_(model, options.shared / "models" / "cifar10_resnet56.th")
    model.eval()
    test = (normalised(data["test_x"]), torch.from_numpy(data["test_y"]).long())
    drawn = np.random.default_rng(options.seed).permutation(len(data["train_x"]))[: options.images]
    graph = ChannelGraph(model, test[0][:2])
    sampling = RowSampling(positions=options.positions, seed=options.seed)
    calibration = calibrate(
        model,
        normalised(data["train_x"][drawn]).split(50),
        layers=repaired_layers(graph),
        labels=torch.from_numpy(data["train_y"][drawn]).long(),
        sampling=sampling,
    )
    inner = [g for g in graph.groups if g.name != "conv1"]
    return Setting(graph=graph, calibration=calibration, inner=inner, test=test, sampling=sampling)


def measure(setting: Setting, name: str) -> Iterator[dict[str, str]]:
    """A row for each share of the inner channels."""
    graph = setting.graph
    started = time.perf_counter()
    scores = scores_by_group(make_criterion(name), setting.inner, setting.calibration)
    orders = {group: ranking(own) for group, own in scores.items()}
    seconds = time.perf_counter() - started
    plan = Reconstruction(graph, setting.calibration, orders)
    for share in SHARES:
        counts = {g.name: round(share * g.channels) for g in setting.inner}
        kept = plan.kept(counts)
        compact = graph.compact(kept)
        accuracies = [accuracy(compact, *setting.test)]
        plan.apply_(compact, counts)
        accuracies.append(accuracy(compact, *setting.test))
        repair_sequentially_(
            compact,
            graph,
            kept,
            setting.calibration.batches,
            settings=SequentialSettings(sampling=setting.sampling),
        )
        accuracies.append(accuracy(compact, *setting.test))
        ratio = graph.cost(counts).flops / graph.cost().flops
        values = [f"{seconds:.1f}", f"{share}", f"{ratio:.3f}", *(f"{a:.4f}" for a in accuracies)]
        yield dict(zip(COLUMNS, [name, *values], strict=True))


def table(rows: list[dict[str, str]]) -> str:
    """One line for each criterion, best repair at the last share first."""
    lines = [
        "| criterion | scoring, s | "
        + " | ".join(f"{s:.0%}: none / repair / sequential" for s in SHARES)
        + " |",
        "| --- | --: |" + " --: |" * len(SHARES),
    ]
    by_name = {
        row["criterion"]: [r for r in rows if r["criterion"] == row["criterion"]] for row in rows
    }
    for name, mine in sorted(by_name.items(), key=lambda item: -float(item[1][-1]["repair"])):
        cells = [f"{r['none']} / {r['repair']} / {r['sequential']}" for r in mine]
        lines.append(f"| `{name}` | {mine[0]['score_s']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for resnet56_criteria.csv and .md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = prepare(options)
    base = accuracy(setting.graph.model, *setting.test)
    print(f"base {base:.4f}")
    rows = []
    for name in options.criteria:
        for row in measure(setting, name):
            rows.append(row)
            print(row, flush=True)
    print(table(rows))
    if options.out:
        with (options.out / "resnet56_criteria.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        heading = (
            "# Criteria on ResNet-56\n\n"
            f"Accuracy with all channels {base:.4f}; seed {options.seed}, "
            f"torch {torch.__version__}, {platform.machine()}, one thread.\n\n"
        )
        (options.out / "resnet56_criteria.md").write_text(heading + table(rows) + "\n")


if __name__ == "__main__":
    main()
