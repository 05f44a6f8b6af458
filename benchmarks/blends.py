"""Rewards of the mixtures of ``agent=blend`` on a published ResNet, as a row of a table.

The images are drawn with the seed: 1,000 for calibration, 1,000 for validation. No network is
realised, so this takes a minute.
"""

import argparse

import torch

from amc_env.agents.blend import SHARES, blends
from benchmarks.searches.search import environment
from benchmarks.subjects import add_published_options, published

IMAGES = {"calibration": 1000, "validation": 1000, "selection": 1000}


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_published_options(parser, model="cifar_resnet56")
    parser.add_argument("--reward", default="loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    env = environment(
        published(options.folder, options.model, data=options.data),
        flops=options.flops,
        reward=options.reward,
        images=IMAGES,
        seed=options.seed,
    )
    rewards = [env.evaluate(blends(env, (share,))[0]).reward for share in SHARES]
    print(f"shares {SHARES}, at {options.flops} of the MACs, {env.evaluator.choice}:")
    print(" | ".join([f"| {options.model}", *(f"{reward:.3f}" for reward in rewards)]) + " |")


if __name__ == "__main__":
    main()
