"""Ultralytics' detectors from its own model files, where Ultralytics is installed."""

from pathlib import Path

from torch import nn

from amc_env.extras import need_package


def yolo(path: str, *, nc: int | None = None) -> nn.Module:
    """The network that a model file of Ultralytics describes or holds.

    Args:
        path: ``yolo11n.yaml`` or another architecture, which gets fresh weights; or a checkpoint
            ``FILE.pt``. Ultralytics unpickles a checkpoint, which can run any code, so open only
            those that come from where you trust.
        nc: The number of classes of a network with fresh weights.

    Raises:
        ValueError: Ultralytics is not installed, there is no such file, it holds no detector, or
            the classes of a checkpoint are to be changed.
    """
    need_package(f"the model {path}", "ultralytics")
    model = _from_checkpoint(path, nc) if path.endswith(".pt") else _from_description(path, nc)
    from ultralytics.nn.tasks import guess_model_task

    task = guess_model_task(model.yaml)
    if task != "detect":
        raise ValueError(
            f"{path} is a network of Ultralytics for the task {task!r}; only those that detect "
            "boxes can be pruned"
        )
    # A checkpoint holds averaged weights, which want no gradient. The last layer of the boxes is
    # no weight but the numbers of the bins.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl" not in name)
    return model


def _from_checkpoint(path: str, nc: int | None) -> nn.Module:
    # Ultralytics would look for a missing file on the internet.
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}; check the path")
    if nc is not None:
        raise ValueError(
            f"nc is {nc}, but {path} is a trained network with classes of its own; leave nc out"
        )
    from ultralytics.nn.tasks import load_checkpoint

    try:
        model: nn.Module = load_checkpoint(path)[0]
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint of Ultralytics: {error}") from error
    return model


def _from_description(path: str, nc: int | None) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG_DICT

    try:
        model: nn.Module = DetectionModel(path, nc=nc, verbose=False)
    except Exception as error:
        raise ValueError(f"{path} is no architecture of Ultralytics: {error}") from error
    # What Ultralytics' own loading leaves on a network.
    model.args, model.task = {**DEFAULT_CFG_DICT, "model": path}, "detect"  # type: ignore[assignment]
    return model
