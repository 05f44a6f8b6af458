"""Accuracies on the test data: on all images, and on those that are original."""

from dataclasses import dataclass

from torch import nn

from amc_env.data.datasets import Dataset
from amc_env.evaluation import Evaluator, accuracy_of


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """How many of the test images a network classifies correctly.

    Attributes:
        whole: Share of all test images.
        originals: Share of those that were never re-encoded; None if the data does not mark them.
    """

    whole: float
    originals: float | None


class Examiner:
    """Runs networks on the test data, in full precision."""

    def __init__(self, data: Dataset) -> None:
        self._evaluator = Evaluator(data.test, precision="float32")
        self._originals = data.test_originals

    def examine(self, model: nn.Module) -> Accuracies:
        """The accuracies of a network."""
        logits, labels = self._evaluator.logits(model), self._evaluator.split.labels
        chosen = self._originals
        originals = None if chosen is None else accuracy_of(logits[chosen], labels[chosen])
        return Accuracies(whole=accuracy_of(logits, labels), originals=originals)
