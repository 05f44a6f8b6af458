"""The plain records that an analysis leaves behind: groups, members, costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A module, or a bare parameter, on one of whose axes a group's channels lie.

    Attributes:
        module: Dotted name in the model.
        kind: What it is, such as ``conv``, ``depthwise``, ``linear`` or ``batch_norm``.
        positions: (channels, places) indices on the module's axis: outputs of a producer,
            inputs of a consumer, channels of a follower. A channel has several places behind
            a flatten (one a pixel), in a grouped convolution (one a convolution group) and
            where one tensor is concatenated twice.
        layer: How the weight is used, of a producer, a consumer or a depthwise convolution; None
            of a norm, a PReLU or a parameter that is no layer's weight.
    """

    module: str
    kind: str
    positions: Tensor
    layer: "LayerUse | None" = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroup:
    """Channels that must be kept or cut alike in every member.

    Attributes:
        name: Name of the first producer; stable as long as the model's module names are.
        channels: How many channels there are to choose from.
        producers: Layers that make these channels.
        consumers: Layers that read these channels.
        followers: Norms, depthwise convolutions, PReLUs and bare parameters in between.
        counts: The numbers of channels that may be kept, ascending; the last is ``channels``.
        has_channel_norm: Whether a norm takes statistics over these channels, so that cutting
            a channel is not the same as zeroing it.
    """

    name: str
    channels: int
    producers: tuple[Member, ...]
    consumers: tuple[Member, ...]
    followers: tuple[Member, ...]
    counts: tuple[int, ...]
    has_channel_norm: bool

    def round_count(self, count: float) -> int:
        """The allowed number of channels nearest to ``count``; of two equally near, the larger."""
        return min(reversed(self.counts), key=lambda allowed: abs(allowed - count))


@dataclass(frozen=True, kw_only=True)
class FrozenGroup:
    """Output channels of a layer that cannot be cut, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Multiply-accumulates, parameters and numbers of channels of one conv or linear layer.

    A linear layer behind a flatten has a channel for every pixel of what it reads.
    """

    name: str
    kind: str
    flops: int
    params: int
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs for one sample.

    Attributes:
        flops: Multiply-accumulates of the conv and linear layers.
        params: All parameters of the model.
        layers: The conv and linear layers in execution order.
    """

    flops: int
    params: int
    layers: tuple[LayerCost, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Multiply-accumulates and parameters that depend on the channels of one group."""

    flops: int
    params: int


@dataclass(frozen=True, kw_only=True, eq=False)
class CutAxis:
    """One axis of a parameter or buffer, and the channel class of every index along it."""

    tensor: str
    dim: int
    labels: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class CutAttribute:
    """A number stored on a module that counts the channels of ``labels``.

    Attributes:
        index: The number's place in a list or tuple; None if it is stored by itself.
    """

    module: str
    attribute: str
    index: int | None
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerUse:
    """A convolution or linear layer, whether a module or a function called with a parameter.

    Attributes:
        name: The module that owns the weight; the weight's own name where it is a bare parameter,
            as in ``F.conv2d(x, self.w)``.
        kind: ``conv``, ``conv_transpose``, ``depthwise``, ``linear``, ``recurrent`` or ``attention
            projection``.
        weight: Dotted name of the parameter or buffer that is the weight; None where the weight is
            computed in every forward, as by weight norm. Such a layer costs, but is never cut.
        tensors: Names of all parameters that belong to the layer, weight and bias.
        shape: Shape of the whole weight.
        output_dim: The axis of the weight that the outputs lie along; the inputs, or the inputs of
            one convolution group, lie along the other of the first two.
        groups: Convolution groups.
        stride: The greatest step between two outputs of a convolution, 1 of a linear layer.
        uses: How often one sample multiplies with every entry of the weight.
    """

    name: str
    kind: str
    weight: str | None
    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    output_dim: int = 0
    groups: int = 1
    stride: int = 1
    uses: int

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        # A transposed convolution holds the outputs of one group along its axis.
        return self.shape[self.output_dim] * (self.groups if self.output_dim else 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Structure:
    """All that is needed to cost and cut a model; no tensor of the model is referred to.

    Attributes:
        classes: Channel class label of every channel, by group.
        n_labels: Number of labels; a mask over them says what stays.
        facts: What the run of the whole network settled, in order, by place.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenGroup, ...]
    # No tensor of the model is held, so that a structure outlives the network that it was found in.
    classes: Mapping[str, Tensor]
    n_labels: int
    facts: Mapping[str, tuple[bool, ...]]
    axes: tuple[CutAxis, ...]
    attributes: tuple[CutAttribute, ...]
    layers: tuple[LayerUse, ...]
