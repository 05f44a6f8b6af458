"""Rewards of searches on a published ResNet, with one number of an agent changed at a time.

A seed draws the images, 1,000 for calibration and 1,000 for validation, and seeds the agent. No
network is realised. A row of a Markdown table is printed as soon as its search is over: the best
reward after so many episodes.
"""

import argparse
from itertools import accumulate

import torch

from benchmarks.searches.search import agent_of, environment
from benchmarks.subjects import add_published_options, published

IMAGES = {"calibration": 1000, "validation": 1000, "selection": 1000}
AGENTS = (
    "ddpg",
    "ddpg gamma=1.0",
    "ddpg gradient_steps=1",
    "ddpg scale_rewards=false",
    "ddpg imitated_episodes=0",
    "ddpg warm_start=false imitated_episodes=0",
    "ddpg sigma=0.5 sigma_decay=0.95",
    "ddpg warmup_episodes=100",
    "ddpg actor_learning_rate=1.0e-4",
    "ddpg_amc",
)


def main() -> None:
    """Search, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_published_options(parser, model="cifar_resnet32")
    parser.add_argument("--reward", default="loss")
    parser.add_argument("--agents", nargs="*", default=AGENTS, help="as in benchmarks.searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--after", type=int, nargs="+", default=[25, 50, 100, 150])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    subject = published(options.folder, options.model, data=options.data)
    print(row("network", "agent", "seed", *(f"after {count}" for count in options.after)))
    print(row(*["---"] * 2, *["--:"] * (1 + len(options.after))))
    for seed in options.seeds:
        env = environment(
            subject, flops=options.flops, reward=options.reward, images=IMAGES, seed=seed
        )
        for agent in options.agents:
            name, _, own = agent.partition(" ")
            found = agent_of(name, own).search(env, episodes=max(options.after), seed=seed)
            best = list(accumulate((episode.reward for episode in found.episodes), max))
            rewards = [f"{best[min(count, len(best)) - 1]:.3f}" for count in options.after]
            print(row(options.model, agent, str(seed), *rewards), flush=True)


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
