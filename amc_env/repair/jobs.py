"""The layers of a compact network that a sequential repair solves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from amc_env.repair.layer_plan import output_sides, staying
from amc_env.repair.survey import Survey
from amc_env.structure import ChannelGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A layer to solve.

    Attributes:
        name: Its name in both networks.
        layer: The layer in the compact network.
        outputs: Indices of the outputs of the original layer that stay.
        mean: The mean that a batch norm takes off its outputs; None if they go elsewhere.
    """

    name: str
    layer: nn.Module
    outputs: Tensor
    mean: Tensor | None = None

    @property
    def can_shift(self) -> bool:
        """Whether constants can be added to the outputs."""
        return isinstance(self.layer.bias, Tensor) or self.mean is not None

    def shift_(self, by: Tensor) -> None:
        """Add a constant to each output: to its bias or, without one, in the norm behind it."""
        if isinstance(self.layer.bias, Tensor):
            self.layer.bias += by.to(self.layer.bias)
        elif self.mean is not None:
            self.mean.sub_(by.to(self.mean))


def jobs(
    survey: Survey,
    compact: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    *,
    only_readers: bool = False,
) -> dict[str, Job]:
    """The layers of a compact network to solve, in execution order.

    ``only_readers`` leaves out those that read no group.
    """
    found = {}
    # Before the first cut, layers read what they have always read.
    wanted = _behind_the_first_cut(graph, kept)
    if only_readers:
        wanted &= _readers(graph, [group.name for group in graph.groups])
    for name in survey.solvable():
        if name not in wanted:
            continue
        # A depthwise convolution follows its group and loses the same outputs.
        sides = output_sides(graph, name, with_followers=True)
        size = len(graph.model.get_submodule(name).get_parameter("weight"))
        found[name] = Job(
            name=name,
            layer=compact.get_submodule(name),
            outputs=staying(size, sides, kept).nonzero().flatten(),
            mean=compact.get_buffer(survey.means[name]) if name in survey.means else None,
        )
    return found


def _behind_the_first_cut(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> set[str]:
    """All layers from the first one, in execution order, that reads a group with channels cut."""
    names = [layer.name for layer in graph.cost().layers]
    cut = [
        group.name
        for group in graph.groups
        if len(kept.get(group.name, range(group.channels))) < group.channels
    ]
    readers = _readers(graph, cut)
    first = next((number for number, name in enumerate(names) if name in readers), len(names))
    return set(names[first:])


def _readers(graph: ChannelGraph, groups: Sequence[str]) -> set[str]:
    """The modules that read channels of these groups."""
    return {
        member.module
        for name in groups
        for member in (*graph.group(name).consumers, *graph.group(name).followers)
    }
