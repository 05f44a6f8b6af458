"""Which layers of a network the rewards from entropy read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from amc_env.calibration.feature_maps import has_feature_maps
from amc_env.names import nearest
from amc_env.structure import ChannelGraph

LayerSet = Literal["all", "pruned", "outputs", "last"]
LayerChoice = LayerSet | Sequence[str]

_SETS = get_args(LayerSet)
_CONVOLUTIONS = ("conv", "conv_transpose", "depthwise")


def checked_choice(layers: object) -> LayerChoice:
    """The choice of layers itself, with names as a tuple.

    Raises:
        ValueError: It is neither a set of layers nor a list of different names.
    """
    if isinstance(layers, str):
        if layers not in _SETS:
            raise ValueError(
                f"layers {layers!r} does not exist; the nearest is {nearest(layers, _SETS)!r}, "
                f"choose one of {', '.join(_SETS)}, or give names of layers as [conv1,conv2]"
            )
        return layers
    # The modules of a sequential network are named by digits, which files and command lines read
    # as numbers.
    given = tuple(layers) if isinstance(layers, Sequence) else ()
    names = tuple(str(name) if type(name) is int else name for name in given)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"layers is {layers!r}; give {', '.join(_SETS)}, or names of layers as [conv1,conv2]"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"layers names {twice!r} twice; give every layer once")
    return names


@dataclass(frozen=True, kw_only=True)
class NetworkLayers:
    """Names of the layers whose maps can be read, in the order in which they first run.

    They are the same in a network and in its compact copies. Layers that only training runs, and
    those whose weight is computed outside of a convolution or linear layer, are left out.

    Attributes:
        names: All convolutions and linear layers.
        convolutions: The convolutions, depthwise and transposed ones too. Of a network without any,
            the linear layers.
        pruned: The layers that produce the channels of groups, group by group.
        outputs: Those of ``convolutions`` of whose outputs no channel is in a group.
    """

    names: tuple[str, ...]
    convolutions: tuple[str, ...]
    pruned: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, graph: ChannelGraph) -> "NetworkLayers":
        """The layers of a network."""
        kinds = {use.name: use.kind for use in graph.layers if has_feature_maps(graph.model, use)}
        linear = tuple(name for name, kind in kinds.items() if kind == "linear")
        convolutions = tuple(name for name, kind in kinds.items() if kind in _CONVOLUTIONS)
        produced = dict.fromkeys(m.module for g in graph.groups for m in g.producers)
        # The outputs of a depthwise convolution leave with its inputs.
        followed = {m.module for g in graph.groups for m in g.followers}
        counted = convolutions or linear
        return cls(
            names=tuple(name for name in kinds if name in {*convolutions, *linear}),
            convolutions=counted,
            pruned=tuple(name for name in produced if name in kinds),
            outputs=tuple(n for n in counted if n not in produced and n not in followed),
        )

    def chosen(self, layers: LayerChoice) -> tuple[str, ...]:
        """The names of the layers that a choice stands for.

        Raises:
            ValueError: The choice is none, names a layer that does not exist, or is empty.
        """
        layers = checked_choice(layers)
        sets = {
            "all": self.convolutions,
            "pruned": self.pruned,
            "outputs": self.outputs,
            "last": self.convolutions[-1:],
        }
        names = sets[layers] if isinstance(layers, str) else tuple(layers)
        if not names:
            raise ValueError(
                f"layers is {layers!r}, but the network has no such layer; give another of "
                f"{', '.join(_SETS)}, or names among {', '.join(self.names)}"
            )
        for name in names:
            self._check(name)
        return names

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(
                f"layers names {name!r}, but no convolution or linear layer of this name runs; "
                f"the nearest is {nearest(name, self.names)!r}, choose among "
                f"{', '.join(self.names)}"
            )
