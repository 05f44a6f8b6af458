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
    product. The costs only need the blocks on the diagonal and the weights, which are updated at
    once.
    """

    def __init__(self, gram: Tensor, weight: Tensor, blocks: Tensor, ridge: float) -> None:
        self._weight = weight.clone()
        energy = float((weight * (gram @ weight)).sum())
        self._scale = 1.0 / energy if energy > 0 else 0.0
        mean = float(gram.diagonal().mean())
        ridged = gram.clone()
        ridged.diagonal().add_(ridge * mean if mean > 0 else 1.0)
        self._inverse = torch.linalg.inv(ridged)
        self._blocks = blocks
        self._diagonal = self._inverse[blocks[:, :, None], blocks[:, None, :]]
        self._is_gone = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
        width = blocks.shape[1]
        self._out = gram.new_empty(width * max(_WAITING_ROWS // width, 1), len(gram))
        self._solved = torch.empty_like(self._out)
        self._waiting = 0

    def costs(self, left: Tensor) -> Tensor:
        """What the removal of each remaining channel costs; infinity for removed ones."""
        weight = self._weight[self._blocks[left]]
        solved = torch.linalg.solve(self._diagonal[left], weight)
        costs = torch.full((len(left),), float("inf"), dtype=torch.float64)
        costs[left] = ((weight * solved).sum((1, 2)) * self._scale).cpu()
        return costs

    def eliminate_(self, channel: int) -> None:
        """Remove a channel and solve for the others again."""
        block = self._blocks[channel]
        wait = self._waiting
        # The inverse lacks the updates that wait; only this channel's rows get them now.
        rows = self._inverse[block] - self._out[:wait, block].mT @ self._solved[:wait]
        # Removed columns are never read again; zeros keep rounding errors from growing there.
        rows[:, self._is_gone] = 0.0
        both = torch.linalg.solve(rows[:, block], torch.cat([rows, self._weight[block]], 1))
        solved, weights = both[:, : len(self._inverse)], both[:, len(self._inverse) :]
        self._weight -= rows.mT @ weights
        by_channel = rows[:, self._blocks].movedim(1, 0)
        self._diagonal -= by_channel.mT @ solved[:, self._blocks].movedim(1, 0)
        self._is_gone[block] = True
        self._waiting += len(block)
        self._out[wait : self._waiting] = rows
        self._solved[wait : self._waiting] = solved
        if self._waiting == len(self._out):
            self._inverse.addmm_(self._out.mT, self._solved, alpha=-1)
            self._waiting = 0


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
