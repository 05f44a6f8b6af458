"""A criterion that uses the repair: the least-squares error once a channel is removed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from amc_env.calibration import Calibration
from amc_env.criteria.criterion import Criterion, read_by
from amc_env.structure import ChannelGroup, Member

# How many rows of the inverse are updated by one product.
_WAITING_ROWS = 256
_BY_CHANNEL = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase)


@dataclass(frozen=True, kw_only=True)
class ReconstructionLoss(Criterion):
    r"""Least-squares error without a channel, by backward elimination on the Gram matrix.

    One channel after the other is removed, each time the one whose removal raises the error least,
    and the weights of the others are solved for again. With ``H`` the Gram matrix plus a ridge,
    ``W`` the weights and ``c`` the columns of a channel, its removal costs

    .. math:: \Delta_c = \mathrm{tr}\; W_c' \left[(H^{-1})_{cc}\right]^{-1} W_c

    (the optimal brain surgeon of Hassibi and Stork, 1993, for blocks of weights). A channel's score
    is the error after its removal, relative to the outputs and summed over the layers that read the
    group. ``ridge`` is relative to the mean of the diagonal.
    """

    name = "reconstruction"
    needs_samples = True
    needs_grams = True
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge is {self.ridge}; give a number above 0")

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        problems = [
            _unfolded(member, calibration)
            for member in group.consumers
            if member.module in calibration.grams
        ] or [
            _by_channel(member, calibration)
            for member in group.consumers
            if _reads_by_channel(member, calibration)
        ]
        readers = [reader for problem in problems for reader in problem.readers(self.ridge)]
        if not readers:
            raise ValueError("no layer that reads it was calibrated and can be repaired")
        scores = torch.empty(group.channels, dtype=torch.float64)
        left = torch.ones(group.channels, dtype=torch.bool)
        lost = 0.0
        for _ in range(group.channels):
            costs = torch.stack([reader.costs(left) for reader in readers]).sum(0)
            channel = int(costs.argmin())
            # A removal never lowers the error, but rounding may give a cost just below 0.
            lost += max(float(costs[channel]), 0.0)
            scores[channel] = lost
            left[channel] = False
            if left.any():
                for reader in readers:
                    reader.eliminate_(channel)
        return scores


class _Reader:
    """One least squares problem, from which blocks of columns are removed.

    Inverting the Gram matrix anew after every removal would take a cubic number of operations each
    time. Removing a block instead subtracts a product of a few rows from the inverse. That update
    touches the whole matrix, so it is put off until enough rows have come together for one fast
    product, in which what is removed is left out. The costs only need the blocks on the diagonal
    and the weights, which are updated at once.

    The columns of a channel lie together, in the order of the channels that are left; columns that
    no channel reads come last.
    """

    def __init__(self, gram: Tensor, weight: Tensor, blocks: Tensor, ridge: float) -> None:
        energy = float((weight * (gram @ weight)).sum())
        self._scale = 1.0 / energy if energy > 0 else 0.0
        mean = float(gram.diagonal().mean())
        ridged = gram.clone()
        ridged.diagonal().add_(ridge * mean if mean > 0 else 1.0)
        is_other = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
        is_other[blocks] = False
        columns = torch.cat([blocks.flatten(), is_other.nonzero().flatten()])
        self._width = blocks.shape[1]
        self._weight = weight[columns]
        self._inverse = _inverse(ridged[columns[:, None], columns])
        self._channels = torch.arange(len(blocks))
        size = len(blocks) * self._width
        inside = self._inverse[:size, :size].view(len(blocks), self._width, len(blocks), -1)
        self._diagonal = inside.diagonal(dim1=0, dim2=2).movedim(-1, 0).clone()
        self._begin_()

    def costs(self, left: Tensor) -> Tensor:
        """What the removal of each remaining channel costs; infinity for removed ones."""
        weight = self._weight[: len(self._channels) * self._width].unflatten(0, (-1, self._width))
        products = weight @ weight.mT
        costs = torch.full((len(left),), float("inf"), dtype=torch.float64)
        traces = (torch.linalg.inv(self._diagonal) * products).sum((1, 2))
        costs[self._channels] = (traces * self._scale).cpu()
        return costs.masked_fill(~left, float("inf"))

    def eliminate_(self, channel: int) -> None:
        """Remove a channel and solve for the others again."""
        place = int((self._channels == channel).nonzero())
        block = slice(place * self._width, (place + 1) * self._width)
        wait = self._waiting
        # The inverse lacks the updates that wait; only this channel's rows get them now.
        rows = self._inverse[block] - self._out[:wait, block].mT @ self._solved[:wait]
        # Removed columns are never read again; zeros keep rounding errors from growing there.
        rows[:, ~self._is_left] = 0.0
        both = torch.linalg.solve(rows[:, block], torch.cat([rows, self._weight[block]], 1))
        solved, weights = both[:, : len(self._inverse)], both[:, len(self._inverse) :]
        self._weight.addmm_(rows.mT, weights, alpha=-1)
        self._diagonal -= self._blocks(rows).mT @ self._blocks(solved)
        self._weight[block] = 0.0
        self._diagonal[place] = torch.eye(self._width).to(self._diagonal)
        self._is_left[block] = False
        self._waiting += self._width
        self._out[wait : self._waiting] = rows
        self._solved[wait : self._waiting] = solved
        if self._waiting == len(self._out):
            self._settle_()

    def _blocks(self, rows: Tensor) -> Tensor:
        """Rows (n, columns) as (channels, n, columns of a channel)."""
        size = len(self._channels) * self._width
        blocks: Tensor = rows[:, :size].unflatten(1, (-1, self._width))
        return blocks.movedim(1, 0)

    def _settle_(self) -> None:
        """Make the updates that wait, and leave out what is removed."""
        left = self._is_left.nonzero().flatten()
        self._inverse = self._inverse[left[:, None], left]
        self._inverse.addmm_(self._out[:, left].mT, self._solved[:, left], alpha=-1)
        self._weight = self._weight[left]
        is_left = self._is_left[: len(self._channels) * self._width : self._width].cpu()
        self._channels = self._channels[is_left]
        self._diagonal = self._diagonal[is_left.to(self._diagonal.device)]
        self._begin_()

    def _begin_(self) -> None:
        """Wait for updates of what is left."""
        size = len(self._inverse)
        self._is_left = torch.ones(size, dtype=torch.bool, device=self._inverse.device)
        shape = (self._width * max(_WAITING_ROWS // self._width, 1), size)
        self._out = self._inverse.new_empty(shape)
        self._solved = torch.empty_like(self._out)
        self._waiting = 0


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric matrix, which is positive definite but for rounding errors."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    inverse: Tensor = torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(lower)
    return inverse


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """What a layer reads of a group.

    Attributes:
        member: The layer.
        grams: (parts, columns, columns) of its inputs, channel-major; a part is a convolution
            group.
        weights: (inputs, outputs, columns of an input), the parts in turn.
    """

    member: Member
    grams: Tensor
    weights: Tensor

    def readers(self, ridge: float) -> list[_Reader]:
        """The least squares of each convolution group that reads the group."""
        positions = self.member.positions
        inputs, _, kernel = self.weights.shape
        width = inputs // len(self.grams)
        found = []
        for number, gram in enumerate(self.grams):
            inside = positions // width == number
            counts = inside.sum(1)
            if not counts.any():
                continue
            if int(counts.min()) != int(counts.max()):
                raise ValueError(f"{self.member.module!r} reads its channels unevenly")
            places = (positions[inside] % width).view(len(positions), -1)
            columns = (places[:, :, None] * kernel + torch.arange(kernel)).flatten(1)
            part = self.weights[number * width : (number + 1) * width]
            own = part.transpose(1, 2).flatten(0, 1)
            found.append(_Reader(gram, own, columns.to(gram.device), ridge))
        return found


def _unfolded(member: Member, calibration: Calibration) -> _Problem:
    """The problem of a layer whose unfolded inputs were calibrated."""
    grams = calibration.grams[member.module]
    weights = read_by(calibration.model, member).to(grams.device).double()
    return _Problem(member=member, grams=grams, weights=weights)


def _by_channel(member: Member, calibration: Calibration) -> _Problem:
    """The problem of a layer in which every input channel adds to outputs by itself.

    A transposed convolution lays the products of a pixel over neighbouring outputs. Each product
    counts here by itself, which is exact where kernels do not overlap. The gates of a recurrent
    layer count before their activation, without the states' share.
    """
    weights = read_by(calibration.model, member).flatten(1)[..., None].double()
    grams = calibration.channel_grams(_owner(member), parts=member.layer.groups)  # type: ignore[union-attr]
    return _Problem(member=member, grams=grams, weights=weights.to(grams.device))


def _reads_by_channel(member: Member, calibration: Calibration) -> bool:
    if member.layer is None or member.layer.weight is None:
        return False
    return isinstance(calibration.model.get_submodule(_owner(member)), _BY_CHANNEL)


def _owner(member: Member) -> str:
    """The name of the module that holds a layer's weight."""
    weight = member.layer.weight if member.layer else None
    return (weight or "").rpartition(".")[0]
