"""Maps of layers that are asked for in turn: those of several are computed in one pass."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, count, first, sizes
from amc_env.calibration.feature_maps import feature_maps
from amc_env.calibration.hooks import evaluating

# Maps are computed ahead while all that are held take no more than so many bytes.
_MOST_BYTES = 2**29
# How much a sample's maps take is found on so many; networks that squeeze need more than one.
_TRIAL_SAMPLES = 2


class MapsAhead:
    """The maps of layers on the same samples, which are asked for in a known order.

    A pass through the network gives the maps of the layer that is asked for, and of as many of the
    next ones as fit in half a gigabyte with it. A layer's maps are held until they have been asked
    for as often as the order says.

    Args:
        model: The network.
        batches: The samples.
        layers: Names of layers, in the order in which their maps will be asked for.
        most_bytes: How much may be held ahead.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        layers: Sequence[str],
        *,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._model = model
        self._batches = batches
        self._order = list(layers)
        self._most_bytes = most_bytes
        self._samples: int | None = None
        self._held: dict[str, Tensor] = {}

    def take(self, layer: str, *, samples: int | None = None) -> Tensor:
        """The maps of a layer on the first samples, or on all, (samples, channels, H, W).

        Raises:
            ValueError: The layer does not exist or did not run, or a map is not finite.
        """
        if samples != self._samples:
            self._samples, self._held = samples, {}
        if layer not in self._held:
            self._held |= self._computed(layer)
        maps = self._held[layer]
        if layer in self._order:
            del self._order[: self._order.index(layer) + 1]
        self._held = {name: held for name, held in self._held.items() if name in self._order}
        return maps

    def _computed(self, layer: str) -> dict[str, Tensor]:
        """The maps of a layer and of the next ones that fit."""
        try:
            return self._maps(self._fitting(layer))
        # The layer is not to blame for what a later one does.
        except ValueError:
            return self._maps([layer])

    def _fitting(self, layer: str) -> list[str]:
        """The layer, and those after it whose maps may be held as well."""
        later = self._order[self._order.index(layer) :] if layer in self._order else []
        others = [n for n in dict.fromkeys(later) if n != layer and n not in self._held]
        if not others:
            return [layer]
        few = first(self._batches[0], _TRIAL_SAMPLES)
        with evaluating(self._model):
            trial = feature_maps(self._model, [layer, *others], few)
        total = sum(sizes(self._batches))
        times = min(total, self._samples or total) / count(few)
        left = float(self._most_bytes) - sum(maps.nbytes for maps in self._held.values())
        left -= times * trial[layer].nbytes
        chosen = [layer]
        for name in others:
            left -= times * trial[name].nbytes
            if left < 0:
                break
            chosen.append(name)
        return chosen

    def _maps(self, layers: list[str]) -> dict[str, Tensor]:
        with evaluating(self._model):
            parts = [feature_maps(self._model, layers, batch) for batch in self._read()]
        # Parts are let go one by one, so that only one layer's are there twice.
        return {name: torch.cat([part.pop(name) for part in parts]) for name in layers}

    def _read(self) -> Iterator[Batch]:
        """The batches of the samples that count."""
        left = sum(sizes(self._batches)) if self._samples is None else self._samples
        for batch in self._batches:
            yield first(batch, left)
            left -= count(batch)
            if left <= 0:
                return
