"""Images with boxes in Ultralytics' layout of files, read by Ultralytics itself."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amc_env.data.splits import Split
from amc_env.extras import need_package
from amc_env.tasks.detection import Boxes, labels_of_boxes


def read_yolo(path: str, *, size: int) -> tuple[Split, Split]:
    """The training and the test data that a ``data.yaml`` of Ultralytics names.

    Raises:
        ValueError: Ultralytics is not installed, the file or its folders are not there, or ``size``
            is no multiple of 32.
    """
    need_package("the data set yolo", "ultralytics")
    if size < 32 or size % 32:
        raise ValueError(f"size is {size}; give a multiple of 32 pixels, as the networks need it")
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; give a data.yaml as data.options.path")
    from ultralytics.data.utils import check_det_dataset

    try:
        described = check_det_dataset(path, autodownload=False)
        test = described.get("test") or described["val"]
        return _split(described["train"], described, size), _split(test, described, size)
    except (OSError, RuntimeError, SyntaxError) as error:
        raise ValueError(f"{path} names no data set that can be read: {error}") from error


def _split(images: Any, described: dict[str, Any], size: int) -> Split:
    from ultralytics.data import YOLODataset

    samples = YOLODataset(
        img_path=images, data=described, task="detect", imgsz=size, augment=False, rect=False
    )
    read = [samples[number] for number in range(len(samples))]
    pixels = torch.stack([each["img"] for each in read]).float() / 255
    return Split(inputs=pixels, labels=labels_of_boxes([_boxes(each) for each in read]))


def _boxes(sample: dict[str, Tensor]) -> Boxes:
    middles, sizes = sample["bboxes"].float().split(2, 1)
    corners = torch.cat([middles - sizes / 2, middles + sizes / 2], 1)
    # Rounding can leave a box beyond its image by a millionth.
    return Boxes(boxes=corners.clamp(0, 1), classes=sample["cls"].flatten().long())
