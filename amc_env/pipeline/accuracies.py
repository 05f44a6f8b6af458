"""The task's metric on the test data: on all images, and on those that are original."""

from dataclasses import dataclass

from torch import nn

from amc_env.batches import taken
from amc_env.data.datasets import Dataset
from amc_env.evaluation import Evaluator
from amc_env.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """How many of the test images a network classifies correctly, or the metric of another task.

    Attributes:
        whole: Of all test images.
        originals: Of those that were never re-encoded; None if the data does not mark them.
    """

    whole: float
    originals: float | None


class Examiner:
    """Runs networks on the test data, in full precision."""

    def __init__(self, data: Dataset, task: Task) -> None:
        self._evaluator = Evaluator(data.test, precision="float32", task=task)
        self._originals = data.test_originals

    def examine(self, model: nn.Module) -> Accuracies:
        """The accuracies of a network."""
        outputs, labels = self._evaluator.outputs(model), self._evaluator.split.labels
        evaluate, chosen = self._evaluator.task.evaluate, self._originals
        originals = None
        if chosen is not None and labels is not None:
            originals = evaluate(taken(outputs, chosen), taken(labels, chosen))
        return Accuracies(whole=evaluate(outputs, labels), originals=originals)
