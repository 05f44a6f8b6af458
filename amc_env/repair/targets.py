"""What the original network's layers give in the rows that count: the aims of a sequential repair.

They are the same for every policy, so they are held from one repair to the next: all of them where
they fit into the limit, else one round of consecutive layers at a time, and the original network
runs again for every round.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from amc_env.batches import Batch, sizes
from amc_env.calibration.hooks import EnoughError, listening, run_until_enough
from amc_env.precision import Format
from amc_env.repair.shortcuts import shortcuts
from amc_env.repair.survey import Places, Survey

# How many numbers of one map, and of targets, are held for samples that run together.
_LIMIT = 2**28


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What a layer of the original network gave on one batch, in the rows that count.

    Attributes:
        rows: Its outputs less the bias, (samples and positions, outputs).
        other: What was added to its outputs further on, in the same rows; None if nothing was.
    """

    rows: Tensor
    other: Tensor | None = None


class Targets:
    """Targets of all layers on all batches.

    Args:
        model: The original network, in evaluation mode.
        batches: The samples.
        survey: What a run of one batch has shown.
        places: For every batch the rows that count, by layer.
        match_sums: Whether what is added to outputs further on is recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        survey: Survey,
        places: Sequence[Mapping[str, Places]],
        *,
        match_sums: bool,
    ) -> None:
        self._model = model
        self._batches = batches
        self._places = places
        self._match_sums = match_sums
        each = 2 if match_sums else 1
        numbers = {name: each * survey.numbers(name, places[0][name]) for name in survey.solvable()}
        self.together = _fitting(batches, max([survey.largest, *numbers.values()]))
        samples = sum(sizes(batches[: self.together]))
        self._rounds = list(_rounds({name: n * samples for name, n in numbers.items()}))
        self._held: dict[str, list[Target]] = {}

    def hold_(self) -> None:
        """Compute what is held from one repair to the next, where all of it fits."""
        if len(self._rounds) == 1:
            self.held(self._rounds[0][0])

    def held(self, name: str) -> list[Target]:
        """Targets of a layer on the batches that run together."""
        if name not in self._held:
            # The rounds are the same for every policy: one that holds all layers is computed once,
            # and several follow one another as the layers of a repair do.
            names = next(names for names in self._rounds if name in names)
            self._held = {}
            found = [self.on_batch(names, number) for number in range(self.together)]
            self._held = {name: [targets[name] for targets in found] for name in names}
        return self._held[name]

    def on_batch(self, names: Sequence[str], number: int) -> dict[str, Target]:
        """Targets of some layers on one batch, from a run of the original network."""
        places = self._places[number]
        found: dict[str, Target] = {}

        def keep(name: str, layer: nn.Module, output: Tensor) -> None:
            rows = map_rows(layer, output, places[name].positions)
            bias = layer.bias
            found[name] = Target(rows=rows - bias if isinstance(bias, Tensor) else rows)
            if len(found) == len(names):
                raise EnoughError

        layers = {name: self._model.get_submodule(name) for name in names}
        with listening(layers, after=keep):
            run_until_enough(self._model, Format().arrange(self._batches[number]))
        if self._match_sums:
            for name, beside in self._shortcuts(names, number).items():
                found[name] = replace(found[name], other=beside)
        return found

    def _shortcuts(self, names: Sequence[str], number: int) -> dict[str, Tensor]:
        places, model = self._places[number], self._model

        def keep(name: str, other: Tensor) -> Tensor:
            return map_rows(model.get_submodule(name), other, places[name].positions)

        found = shortcuts(model, names, self._batches[number], keep=keep)
        return {name: beside.other for name, beside in found.items()}


def map_rows(layer: nn.Module, maps: Tensor, positions: Tensor | None) -> Tensor:
    """A layer's output, or a map of its shape, copied as (samples and positions, channels)."""
    if isinstance(layer, nn.Linear):
        return maps.reshape(-1, maps.shape[-1]).clone()
    pixels = maps.flatten(2).mT
    # Copies, as a view would keep the whole map in memory.
    if positions is None:
        return pixels.reshape(-1, maps.shape[1]).clone()
    return pixels.index_select(1, positions.to(maps.device)).flatten(0, 1)


def _fitting(batches: Sequence[Batch], numbers: int) -> int:
    """How many batches from the first on fit into the limit, at so many numbers for one sample."""
    held = total = 0
    for size in sizes(batches):
        total += numbers * size
        if held and total > _LIMIT:
            break
        held += 1
    return held


def _rounds(numbers: Mapping[str, int]) -> Iterator[list[str]]:
    """Consecutive layers whose targets fit into the limit together, one layer at least."""
    names: list[str] = []
    total = 0
    for name, number in numbers.items():
        total += number
        if names and total > _LIMIT:
            yield names
            names, total = [], number
        names.append(name)
    if names:
        yield names
