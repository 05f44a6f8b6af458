"""Entropies beside scikit-image, and what every criterion takes to score a network."""

from collections.abc import Iterator
from functools import partial

import torch

from amc_env import ChannelGraph
from amc_env.calibration import calibrate
from amc_env.criteria import CRITERIA, make_criterion, scores_by_group
from amc_env.information.aura import spatial_entropy
from amc_env.models import build_model
from amc_env.models.zoo import model_entry
from amc_env.repair.plan import repaired_layers
from benchmarks.bench_ame import BINS, SHAPE, per_map, stacked
from benchmarks.speed.records import Case, Size, medians
from benchmarks.vgg16_episode import forward_seconds


def entropy(size: Size) -> Iterator[Case]:
    """The spatial entropy of a layer's maps; scikit-image's ways are timed on few channels."""
    shape = (20, 64, 8, 8) if size.short else SHAPE
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu_()
    there = x.to(size.device)
    few = {"graycomatrix, stacked": (stacked, 8), "graycomatrix, per map": (per_map, 4)}
    ways = {"amc_env": partial(spatial_entropy, there, bins=BINS)}
    for name, (function, channels) in few.items():
        part = x[:, :channels].contiguous()
        ways[name] = partial(function, part)
    taken = medians(ways, size)
    values = {"amc_env s": taken["amc_env"]}
    for name, (_, channels) in few.items():
        values[f"{name} s"] = taken[name] * shape[1] / channels
        values[f"{name} / amc_env"] = values[f"{name} s"] / taken["amc_env"]
    yield Case(name=f"maps {shape}", values=values)


def criteria(size: Size) -> Iterator[Case]:
    """All groups of a network by each criterion, beside a forward pass of the same samples."""
    names = size.of(tuple(CRITERIA), ("l2", "capacity", "taylor"))
    for network in size.of(("cifar_vgg16", "cifar_resnet50"), ("digits_cnn",)):
        model = build_model(network, seed=0).to(size.device).eval()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(100, *model_entry(network).input_shape, generator=generator)
        x = x.to(size.device)
        graph = ChannelGraph(model, x[:2])
        sums = calibrate(
            model,
            x.split(50),
            labels=torch.arange(100) % 10,
            layers=repaired_layers(graph) if "reconstruction" in names else (),
        )

        once = Size(short=size.short, rounds=1, device=size.device)
        plain = medians({"forward": partial(forward_seconds, model, x)}, size)["forward"]
        for name in names:
            score = partial(scores_by_group, make_criterion(name), graph.groups, sums)
            seconds = medians({"score": score}, once)["score"]
            yield Case(
                name=f"{network}, {name}",
                values={"seconds": seconds, "forward passes": seconds / plain},
            )
