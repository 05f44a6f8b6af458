"""The interface of a criterion, and the check of the scores that it returns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from amc_env.calibration import Calibration
from amc_env.devices import with_float64
from amc_env.names import WithName
from amc_env.structure import ChannelGroup, LayerUse, Member


class Criterion(WithName, ABC):
    """Gives every channel of a group a score.

    Attributes:
        name: What tables, files and messages call it; the name of its class unless it says so.
        needs_samples: Whether it reads calibration samples. Otherwise the weights are enough.
        needs_labels: Whether it reads the classes of the samples.
        needs_grams: Whether it reads the Gram matrices of the layers that consume the group.
    """

    name: str
    needs_samples: bool = False
    needs_labels: bool = False
    needs_grams: bool = False

    @abstractmethod
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        """One finite number for each channel, (channels,). The highest are kept longest."""


@torch.no_grad()
def channel_scores(criterion: Criterion, group: ChannelGroup, calibration: Calibration) -> Tensor:
    """The checked scores that a criterion gives the channels of a group, on the CPU in float64.

    Raises:
        ValueError: The criterion cannot score the group, or a score is NaN or infinite. The message
            names the criterion and the group.
    """
    try:
        scores = criterion.scores(group, calibration).detach().cpu().double()
    except ValueError as error:
        raise ValueError(
            f"criterion {criterion.name!r} cannot score group {group.name!r}: {error}"
        ) from error
    if scores.shape != (group.channels,):
        raise ValueError(
            f"criterion {criterion.name!r} gave group {group.name!r} scores of the shape "
            f"{tuple(scores.shape)}; it must give {group.channels}, one for each channel"
        )
    if not scores.isfinite().all():
        channel = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"criterion {criterion.name!r} gave channel {channel} of group {group.name!r} the "
            f"score {scores[channel].item()}; check the layer's weights and the samples, or "
            "choose another criterion"
        )
    return scores


def scores_by_group(
    criterion: Criterion, groups: Sequence[ChannelGroup], calibration: Calibration
) -> dict[str, Tensor]:
    """The checked scores of each of several groups, by its name.

    Raises:
        ValueError: The criterion cannot score a group, or a score is NaN or infinite.
    """
    turns = calibration.asked_in_turn(chain.from_iterable(group.producers for group in groups))
    return {group.name: channel_scores(criterion, group, turns) for group in groups}


def produced_by(model: nn.Module, producer: Member) -> Tensor:
    """A producer's weight as (outputs, inputs, kh, kw), whatever kind of layer it is.

    Raises:
        ValueError: The member is no layer with a weight.
    """
    layer, weight = _layer_and_weight(model, producer)
    if layer.output_dim == 1:
        # Outputs lie along the second axis, those of each convolution group beside each other.
        parts = weight.unflatten(0, (layer.groups, -1))
        weight = parts.transpose(1, 2).flatten(0, 1)
    return weight.flatten(2)[..., None] if weight.dim() > 2 else weight[:, :, None, None]


def read_by(model: nn.Module, consumer: Member) -> Tensor:
    """A consumer's weight as (inputs, outputs of a part, kernel), convolution groups in turn.

    Raises:
        ValueError: The member is no layer with a weight.
    """
    layer, weight = _layer_and_weight(model, consumer)
    if layer.output_dim == 1:
        return weight.reshape(*weight.shape[:2], -1)
    parts = weight.unflatten(0, (layer.groups, -1))
    by_input: Tensor = parts.transpose(1, 2).flatten(0, 1)
    return by_input.reshape(len(by_input), parts.shape[1], -1)


def _layer_and_weight(model: nn.Module, member: Member) -> tuple[LayerUse, Tensor]:
    layer = member.layer
    if layer is None or layer.weight is None:
        raise ValueError(f"{member.module!r} ({member.kind}) has no filters")
    # A weight that is a bare parameter belongs to no layer's module, so its full name is used.
    module, _, attribute = layer.weight.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(module), attribute)
    return layer, with_float64(weight.detach())
