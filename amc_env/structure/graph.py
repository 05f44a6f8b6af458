"""The structure of one model: its channel groups, its costs and its compact copies."""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from amc_env.batches import Batch, is_batch, mapped, tensors_in
from amc_env.structure.analysis import analyse
from amc_env.structure.costs import CostPoint, full_cost
from amc_env.structure.cutting import cut_channels, keep_mask
from amc_env.structure.grouping import Rounding
from amc_env.structure.records import (
    ChannelGroup,
    Cost,
    FrozenGroup,
    LayerUse,
    Share,
    Structure,
)
from amc_env.structure.stored_weights import with_stored_weights

_LOG = logging.getLogger(__name__)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class ChannelGraph:
    """Which channels of a model must be kept or cut together, their cost, and cut copies.

    A copy of the model is run on ``example_input`` to find the groups, and cut copies are run to
    prove them. The model itself is neither run nor modified, and no random state changes.

    Args:
        model: Any convolutional network.
        example_input: What ``model`` is called with: a tensor, a tuple of its arguments, or a
            mapping of its arguments by name. Arguments may be nested tuples, lists and mappings of
            tensors; the first dimension of each tensor is the batch.
        ignore: Names of modules whose output channels stay.
        round_to: Numbers of kept channels are multiples of this, or all.
        min_channels: Fewest channels that a group may keep.

    Raises:
        ValueError: The model cannot be taken apart, or an argument does not fit it; the message
            says which and what would do.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Batch,
        *,
        ignore: Iterable[str] = (),
        round_to: int = 1,
        min_channels: int = 1,
    ) -> None:
        self.model = model = plain(model)
        self.example = _checked_example(example_input)
        self.inputs = tuple(tensors_in(self.example))
        rounding = Rounding(round_to=round_to, min_channels=min_channels)
        # Taken once: a generator that is read a second time is empty.
        self.ignore = _checked_names(ignore)
        ignored = _checked_ignore(model, self.ignore)
        self.round_to = round_to
        self._structure = analyse(model, self.example, ignored=ignored, rounding=rounding)
        # A graph without groups would make every later step a special case.
        if not self._structure.groups:
            raise ValueError(_nothing_to_cut(model, self._structure.frozen))
        self._groups = {group.name: group for group in self._structure.groups}
        self._full_cost = full_cost(model, self._structure)

    @property
    def structure(self) -> Structure:
        """The plain record of all that the analysis found, down to the axes of every tensor."""
        return self._structure

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be cut, in execution order."""
        return self._structure.groups

    @property
    def frozen(self) -> tuple[FrozenGroup, ...]:
        """The output channels that cannot be cut, each with the reason."""
        return self._structure.frozen

    @property
    def layers(self) -> tuple[LayerUse, ...]:
        """The convolution and linear layers that run, in execution order."""
        return self._structure.layers

    def group(self, name: str) -> ChannelGroup:
        """The group of this name.

        Raises:
            ValueError: There is none; the message names the nearest.
        """
        if name not in self._groups:
            near = difflib.get_close_matches(name, self._groups, n=1, cutoff=0.0)
            frozen = next((f for f in self.frozen if f.name == name), None)
            why = f"; its channels cannot be cut because {frozen.reason}" if frozen else ""
            raise ValueError(f"there is no group {name!r}{why}; the nearest group is {near[0]!r}")
        return self._groups[name]

    def cost(self, kept: Mapping[str, int] | None = None) -> Cost:
        """What the network costs when groups keep that many channels; those not named keep all.

        FLOPs are multiply-accumulates of conv and linear layers for one sample.

        Raises:
            ValueError: A group does not exist or cannot keep that many.
        """
        return self.cost_point(kept).cost

    def cost_point(self, kept: Mapping[str, int] | None = None) -> CostPoint:
        """As ``cost``, for searches that change one group after the other.

        The cost with other numbers of channels in a few groups is then cheap to ask for:
        ``point.with_counts({name: count}).cost`` counts only the layers that depend on them.

        Raises:
            ValueError: A group does not exist or cannot keep that many.
        """
        counts = dict(kept or {})
        for name, count in counts.items():
            width = self.group(name).channels
            if type(count) is not int or not 1 <= count <= width:
                raise ValueError(
                    f"group {name!r} cannot keep {count!r} channels; give a whole number "
                    f"from 1 to {width}"
                )
        return self._full_cost.with_counts(counts)

    def share(self, name: str) -> Share:
        """The FLOPs and parameters that depend on the channels of a group.

        Raises:
            ValueError: There is no such group.
        """
        self.group(name)
        # A group without channels cannot run, but its cost is still arithmetic.
        full, without = self._full_cost.cost, self._full_cost.with_counts({name: 0}).cost
        return Share(flops=full.flops - without.flops, params=full.params - without.params)

    def compact(self, kept: Mapping[str, Sequence[int] | Tensor]) -> nn.Module:
        """A copy of the model, of the same class, with only the ``kept`` channels of each group.

        Args:
            kept: Indices of the channels that stay, by group; groups not named keep all. The
                order of the indices does not matter: channels keep the order they have.

        Raises:
            ValueError: A group does not exist, or its indices are empty, repeated or out of range.
        """
        indices = self.checked_kept(kept)
        return cut_channels(self.model, self._structure, keep_mask(self._structure, indices))

    def checked_kept(self, kept: Mapping[str, Sequence[int] | Tensor]) -> dict[str, Tensor]:
        """Indices of channels that stay, by group, as ascending tensors.

        Raises:
            ValueError: A group does not exist, or its indices are empty, repeated or out of range.
        """
        return {name: self._checked_indices(name, value) for name, value in kept.items()}

    def _checked_indices(self, name: str, kept: Sequence[int] | Tensor) -> Tensor:
        group = self.group(name)
        try:
            indices = torch.as_tensor(kept).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"group {name!r} was given {kept!r}; give the indices of the channels to keep"
            ) from error
        if indices.dim() != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
            # An empty list becomes a tensor of floats; it is refused for keeping nothing, not for
            # its type.
            if indices.numel():
                raise ValueError(
                    f"group {name!r} was given indices of shape {tuple(indices.shape)} and type "
                    f"{indices.dtype}; give a flat sequence of whole numbers"
                )
            indices = indices.flatten().long()
        _check_range(group, indices)
        ascending: Tensor = indices.long().sort().values
        return ascending


def _check_range(group: ChannelGroup, indices: Tensor) -> None:
    outside = indices[(indices < 0) | (indices >= group.channels)]
    if len(outside):
        raise ValueError(
            f"group {group.name!r} has no channel {int(outside[0])}; give indices from 0 to "
            f"{group.channels - 1}"
        )
    unique, times = indices.unique(return_counts=True)
    if len(unique) < len(indices):
        twice = int(unique[times > 1][0])
        raise ValueError(f"group {group.name!r} was given channel {twice} more than once")
    if len(indices) not in group.counts:
        raise ValueError(
            f"group {group.name!r} cannot keep {len(indices)} channels; the allowed numbers are "
            f"{_shortened(group.counts)}"
        )


def _shortened(counts: tuple[int, ...]) -> str:
    shown = [str(count) for count in counts]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def plain(model: nn.Module) -> nn.Module:
    """The network as it is analysed: without wrappers, its weights stored and not computed.

    What is done to it is told by a warning; an ordinary network is returned as it is.

    Raises:
        ValueError: It is no network that can be analysed.
    """
    inside = _unwrapped(model)
    _check_model(inside)
    return with_stored_weights(inside)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of what ``torch.compile`` or data parallelism has wrapped around it."""
    # A wrapper's parameters carry other names than those of the network that is saved and pruned.
    inside = getattr(model, "module" if isinstance(model, _PARALLEL) else "_orig_mod", None)
    if not isinstance(inside, nn.Module):
        return model
    _LOG.warning(
        "the model is wrapped in %s; the network inside, a %s, is taken",
        type(model).__name__,
        type(inside).__name__,
    )
    return _unwrapped(inside)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "model is a ScriptModule, whose forward cannot be followed; give the "
            "Python module it was made from"
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter {name} has no shape yet; run the model once first")


def _checked_example(example_input: object) -> Batch:
    """The example without its gradients; a tuple or mapping of arguments."""
    if not is_batch(example_input):
        raise ValueError(
            f"example_input is a {type(example_input).__name__}; give a tensor, or a tuple or "
            "mapping of tensors for a model that takes several"
        )
    example: Batch = example_input  # type: ignore[assignment]
    if any(x.dim() == 0 or x.numel() == 0 for x in tensors_in(example)):
        raise ValueError("example_input is empty; give at least one sample")
    return mapped(Tensor.detach, example)


def _checked_names(ignore: Iterable[str]) -> tuple[str, ...]:
    if isinstance(ignore, str):
        raise ValueError(f"ignore is the string {ignore!r}; give a list of module names")
    return tuple(ignore)


def _checked_ignore(model: nn.Module, ignore: tuple[str, ...]) -> frozenset[str]:
    names = [name for name, _ in model.named_modules()]
    ignored = frozenset(ignore)
    for name in sorted(ignored):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise ValueError(f"ignore names no module {name!r}; the nearest is {near[0]!r}")
    # Ignoring a block is meant to ignore the layers in it, whose outputs do not leave it
    # themselves.
    inside = tuple(f"{name}." for name in ignored)
    return ignored | {name for name in names if name.startswith(inside)} if inside else ignored


def _nothing_to_cut(model: nn.Module, frozen: tuple[FrozenGroup, ...]) -> str:
    reasons = "; ".join(f"{f.name}: {f.reason}" for f in frozen[:3]) or "it has no conv or linear"
    return f"no channel of the model ({type(model).__name__}) can be cut ({reasons})"
