"""Accuracies on the test data: on all images, and on those that are original."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from amc_env.data.datasets import Dataset
from amc_env.evaluation import Evaluator, accuracy_of

_TOP = 5

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracies:
    """How many of the test images a network classifies correctly.

    Attributes:
        whole: Share of all test images.
        originals: Share of those that were never re-encoded; None if the data does not mark them.
        top5: Share of all test images whose class is among the five of the highest scores; None
            where there are no more classes than that.
        predicted: The class of the highest score of every test image, (images,).
    """

    whole: float
    originals: float | None
    top5: float | None
    predicted: Tensor


class Examiner:
    """Runs networks on the test data, in full precision."""

    def __init__(self, data: Dataset) -> None:
        self._evaluator = Evaluator(data.test, precision="float32")
        self._originals = data.test_originals
        self._labels = self._evaluator.split.labels

    def examine(self, model: nn.Module) -> Accuracies:
        """The accuracies of a network."""
        logits, labels, chosen = self._evaluator.logits(model), self._labels, self._originals
        return Accuracies(
            whole=accuracy_of(logits, labels),
            originals=None if chosen is None else accuracy_of(logits[chosen], labels[chosen]),
            top5=_top5(logits, labels),
            predicted=logits.argmax(1),
        )

    def predictions(self, found: Mapping[str, Accuracies]) -> dict[str, list[int]]:
        """The class of every test image, and what each of the networks takes it for.

        Where the data marks original images, 1 stands for those and 0 for others.
        """
        marked = {} if self._originals is None else {"original": self._originals.int().tolist()}
        own = {"label": self._labels.tolist(), **marked}
        return own | {name: one.predicted.tolist() for name, one in found.items()}


def _top5(logits: Tensor, labels: Tensor) -> float | None:
    if logits.shape[1] <= _TOP:
        return None
    best = logits.topk(_TOP, dim=1).indices
    return float((best == labels[:, None]).any(1).double().mean())
