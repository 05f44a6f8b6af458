"""What the metric of a task is called, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What tables call a metric, and how they show it.

    Attributes:
        name: Its name.
        is_share: Whether it lies between 0 and 1, so that it is shown in percent.
    """

    name: str
    is_share: bool = True

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> "Metric":
        """The metric of the figures in a ``metrics.json``; accuracy where they name none."""
        return cls(**figures["metric"]) if "metric" in figures else ACCURACY

    def text(self, value: float) -> str:
        """A value of the metric, for people."""
        return f"{value:.2%}" if self.is_share else f"{value:.4f}"


ACCURACY = Metric(name="accuracy")
