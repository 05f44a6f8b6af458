"""Accuracies of original networks, which runs that follow one another measure once."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from amc_env.pipeline.accuracies import Accuracies
    from amc_env.pipeline.command import Job

# The settings, beside the weights, that a network's accuracy on the test data depends on.
_SECTIONS = ("model", "data", "task", "device", "threads")


@dataclass(eq=False)
class Originals:
    """The accuracies of the original networks of a process's runs on the test data, for reports.

    The budgets of a run have the same original network, and mostly so have the runs of a sweep or a
    study.
    """

    _found: "dict[str, Accuracies]" = field(default_factory=dict, init=False)

    def known_to(self, run: Callable[..., int]) -> "Callable[[Job], int]":
        """A run of a job that is given them as ``originals``."""
        return partial(run, originals=self)

    def accuracies(
        self,
        model: "nn.Module",
        settings: Mapping[str, Any],
        measure: "Callable[[nn.Module], Accuracies]",
    ) -> "Accuracies":
        """The accuracies of a network; measured if no run with these weights and data has yet.

        Args:
            model: The network.
            settings: Of the run, by section.
            measure: Measures a network.
        """
        # The settings of a sweep are checked before PyTorch is imported, which takes seconds.
        from amc_env.checksums import checksum, weights_of

        facts = {key: json.dumps(settings[key], sort_keys=True) for key in _SECTIONS}
        key = checksum(facts, weights_of(model))
        if key not in self._found:
            self._found[key] = measure(model)
        return self._found[key]
