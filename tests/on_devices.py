"""What a device comes to, for tests that compare it with the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pruning import samples, tiny, tiny_data
from torch import Tensor, nn

from amc_env import (
    Budget,
    ChannelGraph,
    ChannelPruningEnv,
    EnvSettings,
    PruningData,
    RepairSettings,
    Split,
)
from amc_env.agents import search
from amc_env.criteria import make_criterion
from amc_env.data import Images, Source
from amc_env.env.realise import adjust
from amc_env.latency import Conditions, LatencyTable
from amc_env.latency.measuring import MeasureSettings, measure
from amc_env.models import NamedModel
from amc_env.repair.pruner import Pruner
from amc_env.tasks import Detection, Segmentation, Task
from amc_env.training import TrainingSettings, fit_
from benchmarks.tasks.networks import Detector, UNet
from benchmarks.tasks.shapes import detection, segmentation

Device = torch.device | str


def outcome(device: Device, **arguments: object) -> tuple[float, dict[str, list[int]]]:
    """Reward and kept channels of an episode with the model on a device, the data on the CPU."""
    arguments = {"settings": EnvSettings(precision="float32")} | arguments
    env = ChannelPruningEnv(
        model=tiny().to(device), data=tiny_data(), budget=Budget(flops=0.6), **arguments
    )
    env.reset()
    for _ in env.graph.groups:
        *_, reward, _, _, info = env.step(np.array([0.5], np.float32))
    repaired = env.pruner.prune({"stem": torch.tensor([1, 3, 4, 5])}).model
    assert {p.device.type for p in repaired.parameters()} == {torch.device(device).type}
    return reward, {name: kept.tolist() for name, kept in info["policy"].kept.items()}


def repaired(device: Device) -> list[Tensor]:
    """Weights after the plain and after the sequential repair."""
    split = samples(24).to(device)
    graph = ChannelGraph(tiny().to(device), split.inputs[:2])
    pruner = Pruner(graph, split, make_criterion("reconstruction"))
    keep = {"stem": 5, "wide": torch.tensor([0, 2, 3, 7])}
    models = [pruner.prune(keep).model, pruner.prune_sequentially(keep)]
    return [p for model in models for p in model.parameters()]


def trained(device: Device, data: Source | None = None) -> list[Tensor]:
    """Parameters after a training."""
    model: nn.Module = tiny().to(device)
    data = (data or tiny_data().validation).to(device)
    fit_(model, data, TrainingSettings(epochs=2, shift=1, flip=True, precision="float32"), seed=3)
    return [p.detach().cpu() for p in model.parameters()]


def trained_on_bytes(device: Device) -> list[Tensor]:
    """Parameters after a training on images that are held as bytes."""
    numbers = tiny_data().validation
    pixels = (32 * numbers.inputs + 128).clamp(0, 255).byte()
    data = Images(pixels=pixels, labels=numbers.labels, mean=(0.5,), deviation=(0.125,))
    return trained(device, data)


def adjusted(device: Device) -> list[Tensor]:
    """Parameters of a pruned network that was adjusted towards the original without labels."""
    env = ChannelPruningEnv(
        model=tiny().to(device),
        data=tiny_data(),
        reward="kl_to_original",
        settings=EnvSettings(precision="float32"),
    )
    compact = env.pruner.prune_sequentially({"stem": 5, "wide": 6, "last": 10})
    settings = TrainingSettings(
        epochs=2, learning_rate=0.003, batch=8, distil=1.0, precision="float32"
    )
    return [p.detach().cpu() for p in adjust(env, compact, settings).parameters()]


TASKS: dict[str, tuple[Task, Callable[[], nn.Module], Callable[[], Split]]] = {
    "segmentation": (
        Segmentation(output="out"),
        lambda: UNet(width=4),
        lambda: segmentation(train=60, test=1, size=16).train,
    ),
    "detection": (
        Detection(),
        lambda: Detector(width=4),
        lambda: detection(train=60, test=1, size=32).train,
    ),
}


def of_task(name: str, device: Device) -> tuple[float, float]:
    """The reward and the metric of a network of a task after a search of one episode."""
    task, model, train = TASKS[name]
    torch.manual_seed(0)
    data = PruningData.of_training(train(), calibration=24, validation=16, selection=8)
    found = search(
        model().eval().to(device),
        calibration=Split(inputs=data.calibration.inputs),
        validation=data.validation,
        selection=data.selection,
        budget=0.5,
        task=task,
        settings=EnvSettings(
            repair=RepairSettings(calibration_batch=24, episode_samples=16), precision="float32"
        ),
        finalists=1,
        agent="uniform",
        reward="loss",
    )
    return found.best.reward, found.best.accuracy


def measured(device: Device, path: Path) -> LatencyTable:
    """A table of the latencies of every layer on a device."""
    return measure(
        NamedModel(name="tiny", model=tiny(), input_shape=(1, 8, 8)),
        path,
        conditions=Conditions.here(device=str(device), runtime="torch", threads=1, batch=2),
        settings=MeasureSettings(levels=3, seconds=1e-5),
    )
