"""The names of the tasks, and how users' own tasks join them."""

from collections.abc import Callable, Mapping
from typing import Any

from amc_env.names import Kind
from amc_env.tasks.classification import Classification
from amc_env.tasks.detection import Detection
from amc_env.tasks.regression import Regression
from amc_env.tasks.segmentation import Segmentation
from amc_env.tasks.task import Task
from amc_env.tasks.yolo import Yolo

TASKS: Mapping[str, Callable[..., Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "regression": Regression,
    "detection": Detection,
    "yolo": Yolo,
}

TASK: Kind[Task] = Kind(
    title="task",
    entry_points="amc_env.tasks",
    makers=TASKS,
    is_made=lambda thing: isinstance(thing, Task),
)


def make_task(task: str | Task, options: Mapping[str, Any] | None = None) -> Task:
    """The task that a name or a path stands for, with its options; an object is returned.

    Raises:
        ValueError: The name or an option does not exist, or an option has a bad value.
    """
    return TASK.make(task, options)
