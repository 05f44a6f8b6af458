"""The task's metric on the test data: on all images, and on those that are original."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from amc_env.batches import taken
from amc_env.data.datasets import Dataset
from amc_env.evaluation import Evaluator
from amc_env.tasks import Task

_TOP = 5

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracies:
    """How many of the test images a network classifies correctly, or the metric of another task.

    Attributes:
        whole: Of all test images.
        originals: Of those that were never re-encoded; None if the data does not mark them.
        top5: Share of all test images whose class is among the five of the highest scores; None
            where there are no more classes than that, or none at all.
        predicted: The class of the highest score of every test image, (images,); None where images
            have no class.
    """

    whole: float
    originals: float | None
    top5: float | None = None
    predicted: Tensor | None = None


class Examiner:
    """Runs networks on the test data, in full precision."""

    def __init__(self, data: Dataset, task: Task) -> None:
        self._evaluator = Evaluator(data.test.resident(), precision="float32", task=task)
        self._originals = data.test_originals
        self._labels = self._evaluator.split.labels

    def examine(self, model: nn.Module) -> Accuracies:
        """The accuracies of a network."""
        outputs, labels = self._evaluator.outputs(model), self._labels
        task, chosen = self._evaluator.task, self._originals
        originals = None
        if chosen is not None and labels is not None:
            originals = task.evaluate(taken(outputs, chosen), taken(labels, chosen))
        whole = task.evaluate(outputs, labels)
        if not (task.has_classes and isinstance(outputs, Tensor) and isinstance(labels, Tensor)):
            return Accuracies(whole=whole, originals=originals)
        return Accuracies(
            whole=whole,
            originals=originals,
            top5=_top5(outputs, labels),
            predicted=outputs.argmax(1).cpu(),
        )

    def predictions(self, found: Mapping[str, Accuracies]) -> dict[str, list[int]]:
        """The class of every test image, and what each of the networks takes it for.

        Where the data marks original images, 1 stands for those and 0 for others. Empty where
        images have no class.
        """
        own = {
            name: one.predicted.tolist() for name, one in found.items() if one.predicted is not None
        }
        if not own or not isinstance(self._labels, Tensor):
            return {}
        marks = self._originals
        # "original" is what the network before pruning is called.
        marked = {} if marks is None else {"is_original": marks.int().cpu().tolist()}
        return {"label": self._labels.cpu().tolist(), **marked, **own}


def _top5(scores: Tensor, labels: Tensor) -> float | None:
    if scores.shape[1] <= _TOP:
        return None
    best = scores.topk(_TOP, dim=1).indices
    return float((best == labels[:, None]).any(1).double().mean())
