"""Searches of several agents on a published ResNet, and what their networks are worth.

A seed draws the images too. Every search is a file in OUT; a search whose file is there is not run
again. ``--table`` writes the tables of all files of this network and budget. Accuracies are of
test images: those that are original, and all of them where ``--data`` has re-encoded ones too.
"repaired" is the best of five finalists, repaired layer by layer; "adjusted" the same after all
weights were trained towards the original's class scores, without labels, for 5 epochs of 9,000
images, re-encoded ones among them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from amc_env import ChannelPruningEnv
from amc_env.evaluation import Evaluator
from amc_env.training import TrainingSettings
from benchmarks.searches.report import markdown, reached
from benchmarks.searches.search import Found, adjusted_again, environment, search
from benchmarks.subjects import Subject, add_published_options, published

# As in the experiments of amc_env/configs/experiment.
ADJUSTMENT = TrainingSettings(
    epochs=5, samples=9000, learning_rate=0.03, warmup=0.1, min_steps=16, clip=1.0,
    weight_decay=0.0, distil=1.0, shift=4, flip=True,
)  # fmt: skip


def main() -> None:
    """Run the searches that are asked for, or print the tables."""
    options = _options()
    subject = published(options.folder, options.model, data=options.data)
    if options.table:
        print(_tables(options, subject))
        return
    torch.set_num_threads(options.threads)
    test = Evaluator(subject.test, precision="float32")
    done = {(f.title, f.seed): f for f in _found(options) if f.reward == options.reward}
    for seed in options.seeds:
        names = [a for a in options.agents if ((a, seed) in done) == options.again]
        if not names:
            continue
        env = _environment(options, subject, seed)
        print(f"networks are evaluated in {env.evaluator.choice}", flush=True)
        for agent in names:
            found = (
                adjusted_again(env, test, done[agent, seed], _adjustment(options))
                if options.again
                else _search(options, env, test, agent, seed)
            )
            found.write(options.out)
            print(_line(found, subject), flush=True)


def _environment(options: argparse.Namespace, subject: Subject, seed: int) -> ChannelPruningEnv:
    images = {
        "calibration": options.calibration,
        "validation": 1000,
        "selection": 1000,
        "adjustment": 45000,
    }
    return environment(
        subject, flops=options.flops, reward=options.reward, images=images, seed=seed
    )


def _search(
    options: argparse.Namespace, env: ChannelPruningEnv, test: Evaluator, agent: str, seed: int
) -> Found:
    name, _, own = agent.partition(" ")
    described = {
        "network": options.model,
        "flops": options.flops,
        "agent": name,
        "options": own,
        "reward": options.reward,
        "seed": seed,
    }
    adjustment = None if options.repaired else _adjustment(options)
    return search(env, test, described, episodes=options.episodes, adjustment=adjustment)


def _adjustment(options: argparse.Namespace) -> TrainingSettings:
    return replace(ADJUSTMENT, precision=options.precision)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_published_options(parser, model="cifar_resnet56")
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches' files")
    parser.add_argument("--reward", default="loss")
    parser.add_argument(
        "--agents", nargs="*", default=["ddpg"],
        help="files of amc_env/configs/agent; with options of their own as 'ddpg sigma=0.1'",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--calibration", type=int, default=3000)
    parser.add_argument(
        "--precision", default="auto", help="of the adjustment: auto, float32 or bfloat16"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--again", action="store_true",
        help="search nothing: repair and adjust the policies of OUT's files anew",
    )  # fmt: skip
    parser.add_argument("--repaired", action="store_true", help="leave the adjustment out")
    parser.add_argument("--table", action="store_true", help="print the tables and do nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def _found(options: argparse.Namespace) -> list[Found]:
    """All searches of this network and budget, in the order in which they ended."""
    files = sorted(options.out.glob("*.json"), key=lambda path: path.stat().st_mtime)
    found = [Found.model_validate_json(path.read_text(encoding="utf-8")) for path in files]
    return [f for f in found if (f.network, f.flops) == (options.model, options.flops)]


def _tables(options: argparse.Namespace, subject: Subject) -> str:
    found = _found(options)
    reference = options.agents[0]
    tables = (
        markdown(found, _images(subject), reference=reference),
        reached(found),
    )
    return "\n\n".join(tables)


def _images(subject: Subject) -> dict[str, np.ndarray]:
    """Masks of the test images that count."""
    is_original = subject.is_original.numpy()
    masks = {f"{is_original.sum()} originals": is_original}
    if not is_original.all():
        masks[f"all {len(is_original)}"] = np.ones_like(is_original)
    return masks


def _line(found: Found, subject: Subject) -> str:
    """A search in one line, for the log."""
    shown = [
        f"{stage} {name} {100 * found.right(stage)[mask].mean():.2f}"
        for stage in found.is_right
        for name, mask in _images(subject).items()
    ]
    return f"{found.title} seed {found.seed}: {', '.join(shown)}; {found.seconds}"


if __name__ == "__main__":
    main()
