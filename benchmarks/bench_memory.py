"""Peak memory of calibrating and of factoring, each network in a fresh process, on one thread.

Memory is the resident set: its peak in each part, less what was resident just before the network
first ran. The stated bound of calibration is 8 bytes times columns squared for each layer
and convolution group, and what a chunk of rows is unfolded in: float64, and float32 beside it. The
activations of one batch, which any run needs, are not in it: `forward` is the peak of a plain run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType

import torch
import torchvision
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import calibrate
from amc_env.calibration.rows import _CHUNK
from amc_env.models import build_model
from amc_env.repair.plan import Reconstruction, repaired_layers
from benchmarks.resident import forget_peak_, peak_bytes, resident_bytes

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and the images that it is calibrated on."""

    build: Callable[[], nn.Module]
    images: int
    size: int
    batch: int


CASES: Mapping[str, Case] = MappingProxyType(
    {
        "cifar_vgg16": Case(
            build=lambda: build_model("cifar_vgg16", seed=0), images=300, size=32, batch=50
        ),
        "resnet50": Case(build=torchvision.models.resnet50, images=64, size=224, batch=16),
        **{
            f"cifar_resnet{depth}, {images} images": Case(
                build=partial(build_model, f"cifar_resnet{depth}", seed=0),
                images=images,
                size=32,
                batch=50,
            )
            for depth, images in ((20, 100), (56, 100), (110, 100), (56, 400), (56, 1600))
        },
        **{
            f"resnext50, {width} channels a part": Case(
                build=partial(torchvision.models.resnet50, groups=4, width_per_group=width),
                images=32,
                size=64,
                batch=16,
            )
            for width in (16, 32, 64)
        },
    }
)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What one process measured; bytes but the first are above those resident before."""

    before_bytes: int
    forward_bytes: int
    grams_bytes: int
    bound_bytes: int
    calibration_bytes: int
    plan_bytes: int
    analysis_s: float
    calibration_s: float
    plan_s: float


def columns_squared(layer: nn.Conv2d | nn.Linear) -> int:
    """Numbers in a layer's Gram matrices."""
    parts = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return parts * layer.weight[0].numel() ** 2


def measure(case: Case) -> Peak:
    """Calibrate and factor in this process, which is to be fresh."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = case.build().eval()
    batches: tuple[Tensor, ...] = torch.randn(case.images, 3, case.size, case.size).split(
        case.batch
    )
    started = time.perf_counter()
    graph = ChannelGraph(model, batches[0][:1])
    analysis_s = time.perf_counter() - started
    layers = repaired_layers(graph)
    modules = dict(model.named_modules())
    grams = 8 * sum(columns_squared(modules[name]) for name in layers)
    before = resident_bytes()
    forget_peak_()
    with torch.no_grad():
        model(batches[0])
    ran = peak_bytes()
    forget_peak_()
    started = time.perf_counter()
    sums = calibrate(model, batches, layers=layers)
    calibration_s = time.perf_counter() - started
    calibrated = peak_bytes()
    forget_peak_()
    started = time.perf_counter()
    Reconstruction(graph, sums, {}, takes_grams=True)
    return Peak(
        before_bytes=before,
        forward_bytes=ran - before,
        grams_bytes=grams,
        bound_bytes=grams + _CHUNK * (8 + 4),
        calibration_bytes=calibrated - before,
        plan_bytes=peak_bytes() - before,
        analysis_s=analysis_s,
        calibration_s=calibration_s,
        plan_s=time.perf_counter() - started,
    )


def in_fresh_process(name: str) -> Peak:
    """What a new interpreter measures."""
    command = [sys.executable, __file__, "--case", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Peak(**json.loads(done.stdout))


def show(name: str, peak: Peak) -> None:
    """Print one line of the table."""
    sizes = (
        peak.before_bytes,
        peak.forward_bytes,
        peak.grams_bytes,
        peak.bound_bytes,
        peak.calibration_bytes,
        peak.plan_bytes,
    )
    print(
        f"{name:<13}{CASES[name].images:>7}"
        + "".join(f"{size / MIB:>13.0f}" for size in sizes)
        + f"{peak.calibration_bytes / peak.bound_bytes:>12.2f}"
        + f"{peak.calibration_s:>15.1f}{peak.plan_s:>9.1f}",
        flush=True,
    )


def main() -> None:
    """Measure every network and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), help="measure one here and print JSON")
    chosen = parser.parse_args().case
    if chosen is not None:
        print(json.dumps(asdict(measure(CASES[chosen]))))
        return
    print("MiB of resident memory; all but `before` are above it")
    print(
        f"{'network':<13}{'images':>7}{'before':>13}{'forward':>13}{'Gram':>13}{'bound':>13}{'calibration':>13}"
        f"{'and plan':>13}{'peak/bound':>12}{'calibration s':>15}{'plan s':>9}"
    )
    for name in ("cifar_vgg16", "resnet50"):
        show(name, in_fresh_process(name))


if __name__ == "__main__":
    main()
