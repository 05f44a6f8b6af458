"""Networks that torch-pruning has cut, before and after the repair of this package.

Trained networks are the published CIFAR-10 ResNets, judged by their accuracy on the 1,017 original
test images; the repair reads original training images and no labels. torchvision's networks have
random weights and read random images; they are judged by the relative error of their outputs on
other random images.

torch-pruning removes the filters with the smallest L1 norms, the same share of every layer, down to
half the multiply-accumulates. Only the classifier is protected. In the CIFAR ResNets the ends of
the blocks are left out too: behind shortcuts of option A, which pad with channels of zeros,
torch-pruning takes other channels out of a layer than out of those that it is added to. Such a
network is no cut of the original, and the repair refuses it by name.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from amc_env import PruningData, RepairSettings, repair
from amc_env.batches import first_tensor
from amc_env.evaluation import Evaluator
from benchmarks.subjects import published

COLUMNS = ("network", "images", "MACs", "measure", "original", "cut", "repaired", "seconds")


def pruned(model: nn.Module, x: Tensor, *, macs: float) -> nn.Module:
    """A copy that torch-pruning has cut to a share of the multiply-accumulates, or just below."""
    ratios = [step / 32 for step in range(1, 32)]
    # The share of channels that leaves so much is not known before; more channels cost more.
    while len(ratios) > 1:
        middle = (len(ratios) - 1) // 2
        is_below = share(cut(model, x, ratio=ratios[middle]), model, x) <= macs
        ratios = ratios[: middle + 1] if is_below else ratios[middle + 1 :]
    return cut(model, x, ratio=ratios[0])


def cut(model: nn.Module, x: Tensor, *, ratio: float) -> nn.Module:
    """A copy that torch-pruning has cut by a share of the channels of every layer."""
    small = copy.deepcopy(model)
    heads = [module for module in small.modules() if isinstance(module, nn.Linear)]
    torch_pruning.pruner.MagnitudePruner(
        small,
        x[:1],
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        global_pruning=False,
        pruning_ratio=ratio,
        ignored_layers=[*heads, *ends_of_sums(small)],
    ).step()
    return small


def ends_of_sums(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that are added to shortcuts of option A."""
    if "shortcut" in {name.rpartition(".")[2] for name, _ in model.named_modules()}:
        for name, module in model.named_modules():
            if name == "conv1" or name.endswith(".conv2"):
                yield module


def share(small: nn.Module, model: nn.Module, x: Tensor) -> float:
    """The share of the multiply-accumulates that is left."""
    count = torch_pruning.utils.count_ops_and_params
    return float(count(small, x[:1])[0] / count(model, x[:1])[0])


def trained(shared: Path, name: str, images: list[int], settings: RepairSettings) -> Iterator[str]:
    """Rows of a CIFAR-10 ResNet, one for every number of calibration images."""
    subject = published(shared, f"cifar_{name}")
    model = subject.model
    data = PruningData.of_training(
        subject.train, test=subject.test, calibration=max(images), validation=1, seed=0
    )
    drawn = first_tensor(data.calibration.first(max(images)))
    judge = Evaluator(subject.test, precision="float32")
    small = pruned(model, drawn, macs=0.5)
    for count in images:
        repaired, seconds = timed(small, model, drawn[:count], settings)
        accuracies = [f"{judge.evaluate(network):.4f}" for network in (model, small, repaired)]
        ratio = f"{share(small, model, drawn):.3f}"
        yield row(name, str(count), ratio, "accuracy", *accuracies, seconds)


def untrained(name: str, images: int, settings: RepairSettings) -> str:
    """The row of a network of torchvision."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x, fresh = torch.randn(images, 3, 64, 64), torch.randn(100, 3, 64, 64)
    with torch.no_grad():
        settle_norms_(model, x[:50])
    small = pruned(model, x, macs=0.5)
    repaired, seconds = timed(small, model, x, settings)
    errors = [f"{error(network, model, fresh):.3f}" for network in (small, repaired)]
    ratio = f"{share(small, model, x):.3f}"
    return row(name, str(images), ratio, "relative error", "0", *errors, seconds)


def settle_norms_(model: nn.Module, batch: Tensor) -> None:
    """Give batch norms the statistics of a batch, without which outputs of fresh networks fade."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model(batch)
    for norm in norms:
        norm.eval()


@torch.no_grad()
def error(network: nn.Module, model: nn.Module, x: Tensor) -> float:
    """Distance of the outputs, relative to how far the original's are from their mean."""
    wanted = model(x)
    return float((network(x) - wanted).norm() / (wanted - wanted.mean(0)).norm())


def timed(
    small: nn.Module, model: nn.Module, samples: Tensor, settings: RepairSettings
) -> tuple[nn.Module, str]:
    """The repaired network, and the seconds of processor time that it took."""
    started = time.process_time()
    repaired = repair(small, model, samples, settings=settings)
    return repaired, f"{time.process_time() - started:.0f}"


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--no-sums", action="store_true", help="do not aim at residual sums")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # torch-pruning warns of what it cannot trace.
    warnings.simplefilter("ignore")
    settings = RepairSettings(match_residual_sums=not options.no_sums)
    print(row(*COLUMNS))
    print("| --- | --: | --: | --- | --: | --: | --: | --: |")
    for name in ("resnet20", "resnet56"):
        for line in trained(options.shared, name, options.images, settings):
            print(line, flush=True)
    for name in ("resnet18", "mobilenet_v2"):
        print(untrained(name, 200, settings), flush=True)


if __name__ == "__main__":
    main()
