"""Half the FLOPs of ResNet-56 on CIFAR-10: agents and rewards at equal episodes.

Calibration and validation images are drawn from the original training images. Accuracy is measured
on the 1,017 original test images, before fine-tuning, twice: with the plain repair that episodes
use, and realised as in the experiment ``cifar10_resnet56``, where every layer is repaired in turn
so that the residual sums are those of the original. Every finished search is a row of a CSV file;
``--table`` prints medians over seeds.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from agents import make_agent
from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, Split
from amc_env.evaluation import Evaluator
from amc_env.models import build_model, load_checkpoint_
from amc_env.repair.pruner import RepairSettings

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
AGENT_FILES = Path(__file__).resolve().parents[1] / "configs" / "agent"
COLUMNS = (
    "agent", "reward", "seed", "episodes", "validation_images", "flops", "validation", "test",
    "test_realised", "search_s", "evaluate_s", "repair_s", "compact_s", "realise_s", "sparsities",
)  # fmt: skip


def split(data: dict[str, np.ndarray], name: str) -> Split:
    """One part of the arrays, as the network reads it."""
    images: Tensor = torch.from_numpy(data[f"{name}_x"]).permute(0, 3, 1, 2) / 255
    return Split(
        inputs=(images - MEAN) / DEVIATION, labels=torch.from_numpy(data[f"{name}_y"]).long()
    )


def environment(
    shared: Path, reward: str, *, validation: int, norms: int = 0
) -> tuple[ChannelPruningEnv, Evaluator]:
    """The environment, and who measures on the test images."""
    data = np.load(shared / "data" / "cifar10_lossless.npz")
    test = split(data, "test")
    drawn = PruningData.of_training(
        split(data, "train"), test=test, calibration=500, validation=validation, seed=0
    )
    model = build_model("cifar_resnet56")
    load_checkpoint_(model, shared / "models" / "cifar10_resnet56.th")
    env = ChannelPruningEnv(
        model=model.eval(),
        data=drawn,
        criterion="reconstruction",
        reward=reward,
        budget=Budget(flops=0.5),
        # The channels of the residual stream stay, as in He et al. (2018) and HRel.
        settings=EnvSettings(
            ignore=("conv1",), repair=RepairSettings(sequential=not norms, norm_samples=norms)
        ),
    )
    return env, Evaluator(test, precision="float32")


def measure(env: ChannelPruningEnv, test: Evaluator, task: tuple[str, int, int]) -> dict[str, str]:
    """One search as a row."""
    agent, seed, episodes = task
    started = time.perf_counter()
    described = OmegaConf.load(AGENT_FILES / f"{agent}.yaml")
    searcher = make_agent(described.name, OmegaConf.to_container(described.options))
    result = searcher.search(env, episodes=episodes, seed=seed)
    seconds = time.perf_counter() - started
    spent = {
        phase: sum(episode.seconds[phase] for episode in result.episodes)
        for phase in ("evaluate", "repair", "compact")
    }
    started = time.perf_counter()
    realised = result.realised(env, finalists=1)
    return {
        "agent": agent,
        "seed": str(seed),
        "episodes": str(len(result.episodes)),
        "flops": f"{realised.best.flops_ratio:.4f}",
        "validation": f"{result.best.accuracy:.4f}",
        "test": f"{test.accuracy(result.compact):.4f}",
        "test_realised": f"{test.accuracy(realised.compact):.4f}",
        "search_s": f"{seconds:.0f}",
        **{f"{phase}_s": f"{value:.1f}" for phase, value in spent.items()},
        "realise_s": f"{time.perf_counter() - started:.0f}",
        "sparsities": " ".join(f"{s:.2f}" for s in realised.best.sparsities),
    }


def table(path: Path) -> str:
    """Medians and ranges over seeds, in Markdown."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = (
        "agent", "reward", "seeds", "episodes", "images", "MACs", "validation", "test", "realised",
        "evaluate / repair / compact, ms",
    )  # fmt: skip
    lines = [
        "| " + " | ".join(columns) + " |",
        "| --- | --- |" + " --: |" * (len(columns) - 2),
    ]
    named = ("agent", "reward", "episodes", "validation_images")
    keys = dict.fromkeys(tuple(row[name] for name in named) for row in rows)
    for key in keys:
        mine = [row for row in rows if tuple(row[name] for name in named) == key]
        cells = [*key[:2], str(len(mine)), *key[2:], _middle(mine, "flops")]
        cells += [_middle(mine, name) for name in ("validation", "test", "test_realised")]
        phases = ("evaluate_s", "repair_s", "compact_s")
        cells.append(" / ".join(_milliseconds(mine, phase) for phase in phases))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _middle(rows: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in rows]
    middle = f"{statistics.median(values):.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4f} to {max(values):.4f})"


def _milliseconds(rows: list[dict[str, str]], column: str) -> str:
    """What a phase takes in an episode."""
    return f"{statistics.median(1e3 * float(r[column]) / int(r['episodes']) for r in rows):.0f}"


def main() -> None:
    """Run the searches asked for, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--out", type=Path, default=Path("docs/results/resnet56_search.csv"))
    parser.add_argument("--agents", nargs="*", default=["uniform"], help="files of configs/agent")
    parser.add_argument("--reward", default="accuracy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument(
        "--validation", type=int, default=1000, help="images of the validation split"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(options.out))
        return
    torch.set_num_threads(options.threads)
    env, test = environment(options.shared, options.reward, validation=options.validation)
    print(f"base {test.accuracy(env.graph.model):.4f}", flush=True)
    for seed in options.seeds:
        for agent in options.agents:
            row = measure(env, test, (agent, seed, options.episodes))
            row |= {"reward": options.reward, "validation_images": str(options.validation)}
            print(row, flush=True)
            is_new = not options.out.exists()
            with options.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if is_new:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
