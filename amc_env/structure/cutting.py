"""Compact copies of a model: the same class and forward, with channels gone."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env.structure.records import CutAxis, Structure


def keep_mask(structure: Structure, kept: Mapping[str, Tensor]) -> Tensor:
    """A mask over channel labels that is false for the channels ``kept`` leaves out."""
    mask = torch.ones(structure.n_labels, dtype=torch.bool)
    for name, indices in kept.items():
        labels = structure.classes[name]
        mask[labels] = False
        mask[labels[indices]] = True
    return mask


def cut_channels(model: nn.Module, structure: Structure, mask: Tensor) -> nn.Module:
    """Copy ``model`` without the channels that ``mask`` leaves out."""
    tensors = dict(named_tensors(model))
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in structure.axes:
        stays = mask[axis.labels]
        if not stays.all():
            cuts.setdefault(axis.tensor, []).append((axis.dim, stays.nonzero().flatten()))
    # deepcopy takes what the memo holds as already copied, so shared tensors stay shared
    # and no channel that goes is ever copied.
    memo: dict[int, object] = {
        id(tensors[name]): _selected(tensors[name], where) for name, where in cuts.items()
    }
    compact = copy.deepcopy(model, memo)
    modules = dict(compact.named_modules())
    for count in structure.attributes:
        stays = mask[count.labels]
        if not stays.all():
            number = int(stays.sum())
            is_shape = count.attribute == "normalized_shape"
            setattr(modules[count.module], count.attribute, (number,) if is_shape else number)
    return compact


def kept_labels(axes: tuple[CutAxis, ...], mask: Tensor) -> dict[tuple[str, int], Tensor]:
    """The labels that remain on every axis."""
    return {(axis.tensor, axis.dim): axis.labels[mask[axis.labels]] for axis in axes}


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers; one with several names goes by its first."""
    return [*model.named_parameters(), *model.named_buffers()]


def _selected(tensor: Tensor, where: list[tuple[int, Tensor]]) -> Tensor:
    chosen = tensor.detach()
    for dim, index in where:
        chosen = chosen.index_select(dim, index.to(tensor.device))
    if _is_channels_last(tensor):
        chosen = chosen.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(chosen, requires_grad=tensor.requires_grad)
    return chosen


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
