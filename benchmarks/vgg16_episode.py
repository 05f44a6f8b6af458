"""One episode of VGG-16 on CIFAR's sizes, against a plain forward pass of the unpruned network.

Every group is decided, about half the FLOPs stay; the forward pass is float32 over the same images
in the same run, on one thread. Weights and images are random, which changes no time. Peak memory is
that of the whole process, calibration and factoring included.
"""

import argparse
import resource
import statistics
import time
from typing import get_args

import numpy as np
import torch
from torch import nn

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.batches import first_tensor
from amc_env.calibration.hooks import evaluating
from amc_env.models import build_model
from amc_env.repair import Repair

PHASES = ("select", "compact", "repair", "evaluate")


def images(count: int, *, seed: int) -> Split:
    """Noise of CIFAR's size, in ten classes."""
    generator = torch.Generator().manual_seed(seed)
    return Split(
        inputs=torch.randn(count, 3, 32, 32, generator=generator), labels=torch.arange(count) % 10
    )


def forward_seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One plain pass, as a training script would write it."""
    with evaluating(model):
        started = time.perf_counter()
        for batch in x.split(100):
            model(batch)
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started


def episode(env: ChannelPruningEnv, generator: np.random.Generator) -> dict[str, float]:
    """Seconds of one episode of its own actions, in all and by phase."""
    started = time.perf_counter()
    env.reset()
    done = False
    while not done:
        action = np.array([0.3 + 0.1 * generator.random()], dtype=np.float32)
        _, _, done, _, info = env.step(action)
    return {"all": time.perf_counter() - started, "flops": info["flops_ratio"], **info["seconds"]}


def main() -> None:
    """Print the times, the ratio and the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=int, default=3000)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--positions", type=int, default=10, help="of a map, as the original AMC")
    parser.add_argument("--repair", choices=get_args(Repair), default="sequential")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model("cifar_vgg16", seed=0)
    with torch.no_grad():
        model(images(64, seed=2).inputs)
    validation = images(options.validation, seed=1)
    started = time.perf_counter()
    env = ChannelPruningEnv(
        model=model.eval(),
        data=PruningData(calibration=images(options.calibration, seed=0), validation=validation),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=EnvSettings(
            repair=RepairSettings(sampled_positions=options.positions, repair=options.repair),
            precision=options.precision,
        ),
    )
    print(f"prepared once in {time.perf_counter() - started:.0f} s, {len(env.graph.groups)} groups")
    generator = np.random.default_rng(0)
    episode(env, generator)
    rounds = []
    for _ in range(options.rounds):
        forward = forward_seconds(model, first_tensor(validation.inputs))
        rounds.append((forward, episode(env, generator)))
        print(rounds[-1], flush=True)
    forward = statistics.median(f for f, _ in rounds)
    ratio = statistics.median(e["all"] / f for f, e in rounds)
    print(f"forward pass of {options.validation} images, float32: {forward:.2f} s")
    for name in ("all", *PHASES):
        print(f"{name:>10} {statistics.median(e[name] for _, e in rounds):.3f} s")
    print(f"an episode takes {ratio:.2f} times the forward pass")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
