"""The least squares problem of one layer, collected over batches of its inputs.

A layer of ``p`` inputs is solved from their products, ``p`` times ``p`` numbers, or from the rows
of inputs themselves: with fewer than ``p`` of them, those are the smaller problem. Convolutions
behind small maps have thousands of inputs and a few hundred rows.
"""

import torch
from torch import Tensor

from amc_env.calibration.rows import kernel_first, rows_at, samples_at_once
from amc_env.devices import with_float64
from amc_env.repair.jobs import Job
from amc_env.repair.least_squares import nearest, nearest_of_rows
from amc_env.repair.survey import Places


class LayerProblem:
    """A layer's weights and a constant for each output, to solve for.

    Attributes:
        inputs: How many inputs each output has: the unknowns that rows are to determine.
        rows: How many rows of inputs have been added.
    """

    def __init__(self, job: Job) -> None:
        weight = job.layer.weight
        if not isinstance(weight, Tensor):
            raise ValueError(f"{type(job.layer).__name__} has no weight")
        self._job = job
        self._weight = weight
        # Anchors are (columns, outputs) for each convolution group.
        anchors = kernel_first(with_float64(weight.detach()).double())
        self._anchors = torch.stack(anchors.chunk(int(getattr(job.layer, "groups", 1)))).mT
        self.inputs = self._anchors.shape[1]
        self.rows = 0
        self._held: list[tuple[Tensor, Tensor]] = []
        self._sums: _NormalSums | None = None

    def add(self, x: Tensor, aim: Tensor, places: Places) -> None:
        """Add the layer's inputs on one batch, and the rows of outputs that they are to give."""
        layer = self._job.layer
        count = samples_at_once(layer, x, places.positions, outputs=aim.shape[1])
        each = len(aim) // len(x)
        for samples, wanted in zip(x.split(count), aim.split(count * each), strict=True):
            rows = rows_at(layer, samples, places.pixels)
            self._held.append((rows, torch.stack(wanted.chunk(len(rows), dim=1))))
            self.rows += rows.shape[1]
            # Otherwise these rows would still be held while the next ones are unfolded.
            del rows
            if self.rows >= self.inputs:
                self._sum_up_()

    def solve_(self, *, ridge: float) -> None:
        """Write the solution into the layer."""
        collected = self._sums or _Rows(self._held)
        scale = collected.squares() / self.inputs
        penalty = torch.where(scale > 0, ridge * scale, 1.0)
        can_shift = self._job.can_shift
        # With a constant, the least squares problem is that of the rows less their mean.
        solved = collected.nearest(self._anchors, penalty, is_centred=can_shift).mT
        if can_shift:
            inputs, wanted = collected.means()
            self._job.shift_((wanted - solved @ inputs).flatten())
        shape = self._weight.shape
        by_input = solved.flatten(0, 1).view(shape[0], -1, shape[1]).mT.reshape(shape)
        # Converted before it is copied, as the layer's device may have no float64.
        self._weight.copy_(by_input.to(self._weight.dtype))

    def _sum_up_(self) -> None:
        """Put the sums of products in the place of held rows."""
        self._sums = self._sums or _NormalSums(self._anchors)
        while self._held:
            self._sums.add(*self._held.pop(0))


class _NormalSums:
    """Sums of the products of rows, of which there may be any number."""

    def __init__(self, anchors: Tensor) -> None:
        parts, columns, outputs = anchors.shape
        self._gram = anchors.new_zeros(parts, columns, columns)
        self._cross = anchors.new_zeros(parts, columns, outputs)
        self._sum = anchors.new_zeros(parts, columns, 1)
        self._wanted = anchors.new_zeros(parts, outputs, 1)
        self._rows = 0

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """Add rows, (parts, rows, columns), and what they are to give, (parts, rows, outputs)."""
        device = self._gram.device
        # Products in the precision of the network, which in float32 is twice as fast and exact
        # enough for the rows of one batch; their sum over batches in float64.
        self._gram += (rows.mT @ rows).to(device)
        self._cross += (rows.mT @ wanted).to(device)
        self._sum += rows.sum(1)[..., None].to(device)
        self._wanted += wanted.sum(1)[..., None].to(device)
        self._rows += rows.shape[1]

    def squares(self) -> Tensor:
        """The sum of all squared inputs, (parts,)."""
        return self._gram.diagonal(dim1=-2, dim2=-1).sum(-1)

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean row and the mean of what is wanted, (parts, columns, 1), (parts, outputs, 1)."""
        return self._sum / self._rows, self._wanted / self._rows

    def nearest(self, anchors: Tensor, penalty: Tensor, *, is_centred: bool) -> Tensor:
        """The solution, (parts, columns, outputs)."""
        gram, cross = self._gram, self._cross
        if is_centred:
            gram = gram - self._sum @ self._sum.mT / self._rows
            cross = cross - self._sum @ self._wanted.mT / self._rows
        return nearest(gram, cross, anchors, penalty)


class _Rows:
    """Rows as they are, fewer than they have columns."""

    def __init__(self, held: list[tuple[Tensor, Tensor]]) -> None:
        self._rows, self._wanted = (torch.cat(each, dim=1) for each in zip(*held, strict=True))

    def squares(self) -> Tensor:
        """As those of sums."""
        return with_float64(self._rows.square().sum((1, 2))).double()

    def means(self) -> tuple[Tensor, Tensor]:
        """As those of sums."""
        inputs, wanted = (with_float64(x.mean(1)).double() for x in (self._rows, self._wanted))
        return inputs[..., None], wanted[..., None]

    def nearest(self, anchors: Tensor, penalty: Tensor, *, is_centred: bool) -> Tensor:
        """As that of sums."""
        rows, wanted = self._rows, self._wanted
        if is_centred:
            rows, wanted = (x - x.mean(1, keepdim=True) for x in (rows, wanted))
        return nearest_of_rows(rows, wanted, anchors, penalty)
