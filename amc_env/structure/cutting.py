"""Compact copies of a model: the same class and forward, with channels gone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amc_env.structure.module_copy import Template
from amc_env.structure.naming import named_modules
from amc_env.structure.records import CutAttribute, CutAxis, Structure


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
    return cut_copy(Template(model), structure, mask)


def cut_copy(template: Template, structure: Structure, mask: Tensor) -> nn.Module:
    """Copy the model of a template without the channels that ``mask`` leaves out."""
    tensors = template.tensors
    indices = Indices(mask)
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in structure.axes:
        index = indices.along(axis.labels)
        if index.numel() < axis.labels.numel():
            cuts.setdefault(axis.tensor, []).append((axis.dim, index))
    # The memo holds what counts as already copied, so shared tensors stay shared and no channel
    # that goes is ever copied.
    compact = template.copy(
        {id(tensors[name]): _selected(tensors[name], where) for name, where in cuts.items()}
    )
    modules = named_modules(compact)
    for count in structure.attributes:
        number = indices.along(count.labels).numel()
        if number < count.labels.numel():
            _store(modules[count.module], count, number)
    return compact


def _store(module: nn.Module, count: CutAttribute, number: int) -> None:
    value: object = number
    if count.index is not None:
        sizes = getattr(module, count.attribute)
        value = type(sizes)([*sizes[: count.index], number, *sizes[count.index + 1 :]])
    elif count.attribute == "normalized_shape":
        # LayerNorm stores a tuple of sizes where other modules store a number.
        value = (number,)
    setattr(module, count.attribute, value)


class Indices:
    """Where a mask over labels is true along axes; those with the same labels are searched once."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask
        # By identity: equal label vectors are one object (see grouping), and comparing values would
        # cost as much as the look-up that this saves.
        self._known: dict[int, Tensor] = {}

    def along(self, labels: Tensor) -> Tensor:
        """Indices along an axis with these labels."""
        if id(labels) not in self._known:
            self._known[id(labels)] = self._mask[labels].nonzero().flatten()
        return self._known[id(labels)]


def kept_labels(axes: tuple[CutAxis, ...], mask: Tensor) -> dict[tuple[str, int], Tensor]:
    """The labels that remain on every axis; one vector for all axes with the same labels."""
    known: dict[int, Tensor] = {}
    for axis in axes:
        # By identity, as above.
        if id(axis.labels) not in known:
            known[id(axis.labels)] = axis.labels[mask[axis.labels]]
    return {(axis.tensor, axis.dim): known[id(axis.labels)] for axis in axes}


def _selected(tensor: Tensor, where: list[tuple[int, Tensor]]) -> Tensor:
    chosen = _shaped(tensor, where) if tensor.is_meta else _copied(tensor.detach(), where)
    # A compact network is to run as fast as its original, whose layout may have been chosen for
    # speed.
    if _is_channels_last(tensor):
        chosen = chosen.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(chosen, requires_grad=tensor.requires_grad)
    return chosen


def _shaped(tensor: Tensor, where: list[tuple[int, Tensor]]) -> Tensor:
    """An empty tensor of the shape that is left."""
    # The meta device takes longer to select along one dimension than to make the whole result.
    shape = list(tensor.shape)
    for dim, index in where:
        shape[dim] = index.numel()
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


def _copied(tensor: Tensor, where: list[tuple[int, Tensor]]) -> Tensor:
    where = sorted(((dim, index.to(tensor.device)) for dim, index in where), key=lambda cut: cut[0])
    # Two selections one after the other would copy the channels that the second one drops.
    if [dim for dim, _ in where] == [0, 1] and tensor[0, 0].numel() > 3 and tensor.is_contiguous():
        return _selected_kernels(tensor, where[0][1], where[1][1])
    for dim, index in where:
        tensor = tensor.index_select(dim, index)
    return tensor


def _selected_kernels(weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Select along two dimensions in one pass, whole kernels at a time."""
    rows = (first[:, None] * weight.shape[1] + second).flatten()
    kernels: Tensor = weight.flatten(0, 1).index_select(0, rows)
    return kernels.view(len(first), len(second), *weight.shape[2:])


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
