"""Scores and factors of the repair that the runs of a study share in its folder.

They depend on the network, its data, the criterion, the repair and the seed, but not on budgets,
rewards or agents. Runs that share them follow one another, and what no further run reads is
removed, so that a study that runs one after the other never keeps those of two.
"""

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amc_env.studies.jobs import OF_BASE, shared_name
from amc_env.studies.plan import Plan, PlannedRun, as_plain, changed

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

PREPARATIONS = "preparation"

# All that scores and factors depend on. In their folder they are found by a checksum of the tensors
# themselves; if this list told too little or too much, they would be computed again, not mixed up.
_SECTIONS = (*OF_BASE, "task", "criterion", "split", "seed")
_OF_ENV = ("ignore", "round_to", "sampled_positions", "ridge", "calibration_batch")


class Preparations:
    """The folders of scores and factors within the folder of a study.

    Args:
        plan: The study.
    """

    def __init__(self, plan: Plan) -> None:
        self._runs = plan.runs
        self._all = plan.folder / PREPARATIONS
        self._folders = {run.folder: self._all / _name_of(run) for run in plan.runs}

    def in_order(self) -> list[PlannedRun]:
        """The runs of the study in the order in which they are run."""
        together: dict[Path, list[PlannedRun]] = {}
        for run in self._runs:
            together.setdefault(self._folders[run.folder], []).append(run)
        return [run for group in together.values() for run in group]

    def settings_for(self, run: PlannedRun) -> "DictConfig":
        """The settings of a run with its folder, unless they name a folder of the user's."""
        section = as_plain(run.settings)["preparation"]
        own = section["folder"] or str(self._folders[run.folder])
        return changed(run.settings, preparation={**section, "folder": own})

    def tidy(self, pending: Sequence[PlannedRun]) -> None:
        """Remove what none of the runs that are still to be run will read."""
        wanted = {self._folders[run.folder] for run in pending}
        for folder in self._all.glob("*"):
            if folder not in wanted:
                shutil.rmtree(folder)
        if not wanted:
            shutil.rmtree(self._all, ignore_errors=True)


def _name_of(run: PlannedRun) -> str:
    settings = as_plain(run.settings)
    env = settings["env"]
    facts = {key: settings[key] for key in _SECTIONS} | {key: env[key] for key in _OF_ENV}
    # Repairs of any kind share their factors; without one, there are scores alone.
    return shared_name(settings, {**facts, "is_repaired": env["repair"] != "none"})
