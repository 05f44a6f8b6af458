"""Tasks: what a network is trained for, and by which metric it is judged."""

from amc_env.tasks.classification import Classification
from amc_env.tasks.detection import Detection
from amc_env.tasks.regression import Regression
from amc_env.tasks.segmentation import Segmentation
from amc_env.tasks.table import TASK, TASKS, make_task
from amc_env.tasks.task import Task
from amc_env.tasks.yolo import Yolo

__all__ = [
    "TASK",
    "TASKS",
    "Classification",
    "Detection",
    "Regression",
    "Segmentation",
    "Task",
    "Yolo",
    "make_task",
]
