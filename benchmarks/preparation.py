"""Seconds to prepare VGG-16 for a search, and to take scores and factors from files instead.

The weights and images are random; that changes no time. Both pruners must give the same networks to
the last bit. Seconds of the processor do not grow with what else the machine does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from amc_env import ChannelGraph, Split
from amc_env.criteria import make_criterion
from amc_env.models import build_model
from amc_env.repair.pruner import Pruner
from amc_env.tensor_store import TensorStore

POLICIES = (0.3, 0.6, 0.9)


def main() -> None:
    """Prepare twice, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000, help="calibration images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.images, 3, 32, 32, generator=generator)
    split = Split(inputs=images, labels=torch.arange(options.images) % 10)
    graph = ChannelGraph(build_model("cifar_vgg16", seed=0).eval(), images[:2])
    with tempfile.TemporaryDirectory() as folder:
        store = TensorStore(Path(folder), max_bytes=2**30)
        first = prepared("calibrated, ranked, factored and kept", graph, split, store)
        second = prepared("taken from files", graph, split, store)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    print(f"files: {size / 2**30:.2f} GiB")
    same = all(are_equal(*(cut(made, share) for made in (first, second))) for share in POLICIES)
    print(f"networks of {len(POLICIES)} policies are equal to the last bit: {same}")


def prepared(what: str, graph: ChannelGraph, split: Split, store: TensorStore) -> Pruner:
    """A pruner, and how long it took."""
    wall, own = time.perf_counter(), time.process_time()
    made = Pruner(graph, split, make_criterion("l2"), store=store)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    print(f"{what}: {wall:.1f} s, {own:.1f} s of the processor", flush=True)
    return made


def cut(pruner: Pruner, share: float) -> nn.Module:
    """The network that keeps this share of every group, after the plain repair."""
    kept = pruner.kept({g.name: g.round_count(share * g.channels) for g in pruner.graph.groups})
    compact = pruner.graph.compact(kept)
    pruner.plan.apply_(compact, kept)
    return compact


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same tensors."""
    found = other.state_dict()
    return all(torch.equal(tensor, found[name]) for name, tensor in one.state_dict().items())


if __name__ == "__main__":
    main()
