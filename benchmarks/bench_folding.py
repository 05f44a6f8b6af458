"""How much faster a half-sized ResNet-56 is with its batch norms folded, in one run.

Forward passes of both networks on the same batch take turns; the processor time of the medians is
compared, so that other load on the machine counts little.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration.hooks import evaluating
from amc_env.folding import folded, folds_of
from amc_env.models import build_model
from amc_env.precision import Format


def seconds(network: nn.Module, batch: Tensor) -> float:
    """Processor time of one forward pass."""
    with evaluating(network):
        started = time.process_time()
        network(batch)
        return time.process_time() - started


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cifar_resnet56")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = Format().arrange(torch.randn(100, 3, 32, 32))
    model = build_model(options.model, seed=0).eval()
    folds = folds_of(model, batch[:2])
    graph = ChannelGraph(model, batch[:2], ignore=("conv1",))
    half = graph.compact({g.name: torch.arange(g.channels // 2) for g in graph.groups}).eval()
    networks = {"with norms": half, "folded": folded(half, folds)}
    rounds = [{n: seconds(m, batch) for n, m in networks.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(each[name] for each in rounds[1:]) for name in networks}
    for name, taken in medians.items():
        print(f"{name:>10} {taken:.3f} s for {len(batch)} images")
    print(
        f"{len(folds)} norms folded; {medians['with norms'] / medians['folded']:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
