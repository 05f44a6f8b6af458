"""A pruned detector of Ultralytics as a checkpoint that Ultralytics loads."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc_env.batches import call, tensors_in
from amc_env.export.finished import Finished
from amc_env.export.programs import check_agrees
from amc_env.extras import need_package
from amc_env.files import atomic

CHECKPOINT_FILE = "network.pt"


def write_checkpoint(run: Finished, out: Path) -> list[Path]:
    """Write ``network.pt``, which ``ultralytics.YOLO`` loads.

    Raises:
        ValueError: Ultralytics is not installed, the network is none of its detectors, or the
            checkpoint computes something else.
    """
    need_package("the format yolo", "ultralytics")
    from ultralytics import __version__
    from ultralytics.nn.tasks import DetectionModel

    if not isinstance(run.network, DetectionModel):
        raise ValueError(
            f"{run.policy.model} is no detector of Ultralytics, and only those have the format "
            "yolo; use another format"
        )
    network: Any = copy.deepcopy(run.network).cpu()
    _split_in_halves_(network)
    content = {
        "epoch": -1,
        "model": network,
        # Ultralytics goes on with these, such as the size of images.
        "train_args": dict(network.args),
        "version": __version__,
    }
    path = out / CHECKPOINT_FILE
    with atomic(path) as temporary:
        torch.save(content, temporary)
        # This process has just written the file, so unpickling it runs no code of others.
        loaded = torch.load(temporary, weights_only=False)["model"].eval().to(_device(run))
        check_agrees(run, path, lambda inputs: tensors_in(call(loaded, inputs)))
    return [path]


def _split_in_halves_(network: nn.Module) -> None:
    """Tell blocks that Ultralytics exports with another forward pass how many channels they halve.

    ``forward_split`` takes the number from the attribute ``c``, where ``forward`` asks for halves.
    """
    for module in network.modules():
        if hasattr(module, "forward_split"):
            block: Any = module
            block.c = block.cv1.conv.out_channels // 2


def _device(run: Finished) -> torch.device:
    return next(run.network.parameters()).device
