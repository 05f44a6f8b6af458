"""Small networks, each with one thing that a channel can meet."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align


def conv(inputs: int, outputs: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


class Net(nn.Module):
    """A stem, something in the middle given as a function of (self, x), and a head."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor], head: int, **parts: object):
        super().__init__()
        self.stem = conv(3, 8)
        self.norm = nn.BatchNorm2d(8)
        for name, part in parts.items():
            setattr(self, name, part)
        self.middle = middle
        self.head = nn.Linear(head, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.middle(self, x)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Conv1dNet(nn.Module):
    """One-dimensional convolutions with strides, dilation and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 6, 5, stride=2, padding=2)
        self.second = nn.Conv1d(6, 8, 3, dilation=2, bias=False)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=2, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(F.relu(self.second(F.relu(self.first(x))))))
        return self.head(x.mean(-1))


class FlattenNet(nn.Module):
    """A linear layer behind a flatten: a channel is sixteen inputs there."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.hidden = nn.Linear(6 * 16, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.hidden(self.body(x))), training=self.training))


class StoredSizes(nn.Module):
    """Splits and slices by numbers of channels that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.sizes, self.narrow, self.heads = 4, [3, 5], 6, 4
        self.shape, self.scale = (12, 1, 1), nn.Parameter(torch.rand(12) + 0.5)
        self.stem, self.branch = conv(3, 12), conv(4, 4)
        self.wide, self.small, self.large = conv(12, 8), conv(3, 6), conv(5, 4)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale.view(self.shape)
        first, *others = torch.split(F.relu(x), self.width, 1)
        x = self.wide(torch.cat([self.branch(first), *others], 1))
        small, large = x.split(self.sizes, dim=1)
        x = torch.cat([self.small(small), self.large(large)], 1)
        x = torch.cat([x[:, : self.narrow].relu(), x[:, self.narrow :]], 1)
        x = torch.cat([x.narrow(1, 0, self.narrow), x[:, self.narrow :].relu()], 1)
        return self.head(x.mean((2, 3)) / self.heads**0.5)


class SizeInTwoRoles(nn.Module):
    """Splits by a number that it needs for something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.stem, self.out, self.head = conv(3, 8), conv(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.stem(x), self.width, 1)
        x = self.out((first + second) / self.width)
        return self.head(x.mean((2, 3)))


class FirstRunDiffers(nn.Module):
    """Keeps on its first run what later runs need, and does more operations to find it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor | None = None
        self.stem, self.out, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 5)
        self.map = conv(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)).mean()
        x = self.stem(x)
        x = F.relu(self.out(x * torch.sigmoid(self.map(x)) * self.scale))
        return self.head(x.mean((2, 3)))


def _regions(net: nn.Module, x: Tensor) -> Tensor:
    corners = torch.tensor([[1.0, 2.0, 7.0, 6.0]]).to(x).expand(len(x), 4)
    numbers = torch.arange(len(x), dtype=x.dtype)[:, None]
    return net.out(roi_align(x, torch.cat([numbers, corners], 1), 3))


def _rounds_by_values(net: nn.Module, x: Tensor) -> Tensor:
    for _ in range(sum(value > 0 for value in x[0, :, 0, 0].tolist())):
        x = F.pad(x, (1, 1))[..., 1:-1]
    return net.out(x * torch.sigmoid(net.map(x)))


class BareWeights(nn.Module):
    """Layers whose weights are parameters of the network itself, or of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.3 * torch.randn(8, 1, 3, 3))
        self.bias = nn.Parameter(torch.randn(8))
        self.others = nn.ParameterList(
            [0.2 * torch.randn(12, 4, 3, 3), 0.2 * torch.randn(12, 10, 1, 1)]
        )
        self.mid = nn.Conv2d(10, 9, 1)
        self.inner = nn.Parameter(0.3 * torch.randn(9, 6))
        self.weight = nn.Parameter(0.3 * torch.randn(7, 6))
        self.outer = nn.Parameter(0.3 * torch.randn(5, 7))
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first, self.bias, padding=1).relu()
        x = F.conv2d(x, self.others[0], groups=2, stride=2).relu()
        x = F.conv_transpose2d(x, self.others[1]).relu()
        x = (self.mid(x).relu().flatten(2).mT @ self.inner).relu()
        x = F.linear(x.mean(1), self.weight).relu()
        return self.head((x @ self.outer.t()).relu())


class SelectiveKernel(nn.Module):
    """Two branches, stacked, added and weighed against each other by a softmax over the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = conv(8, 6), nn.Conv2d(8, 6, 5, padding=2)
        self.squeeze, self.select = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.small(x).relu(), self.large(x).relu()], dim=1)
        gate = self.select(self.squeeze(branches.sum(1).mean((2, 3), keepdim=True)).relu())
        gate = gate.view(gate.shape[0], 2, gate.shape[1] // 2, 1, 1).softmax(dim=1)
        return (branches * gate).sum(dim=1)


def _best_branch(net: nn.Module, x: Tensor) -> Tensor:
    values, _ = torch.stack([net.a(x), net.b(x)], dim=2).max(2)
    return net.out(values + torch.stack([net.a(x), x]).amax(0))


def _pyramid(net: nn.Module, x: Tensor) -> Tensor:
    deep = net.deep(F.max_pool2d(x, 2)).relu()
    levels = [net.lateral(x), net.lateral2(deep)]
    sizes = [F.interpolate(level, size=x.shape[2:], mode="nearest") for level in levels]
    return net.out(torch.stack(sizes, 0).sum(0))


def _maxout(net: nn.Module, x: Tensor) -> Tensor:
    y = net.wide(x)
    return net.out(y.view(len(y), 3, y.shape[1] // 3, *y.shape[2:]).amax(1))


def _mean_over_channels(net: nn.Module, x: Tensor) -> Tensor:
    return net.out(net.mid(x).mean(1, keepdim=True) * x)


def _einsum(net: nn.Module, x: Tensor) -> Tensor:
    x = torch.einsum("bchw,oc->bohw", x, net.first).relu()
    return torch.einsum("...c,cd->...d", x.movedim(1, -1), net.second).movedim(-1, 1)


def _matrix_on_the_left(net: nn.Module, x: Tensor) -> Tensor:
    y = (net.matrix @ x.flatten(2)).relu()
    return net.out(y.view(*y.shape[:2], *x.shape[2:]))


def _squeeze_excite(net: nn.Module, x: Tensor) -> Tensor:
    gate = net.up(F.silu(net.down(x.mean((2, 3), keepdim=True))))
    return net.out(x * torch.sigmoid(gate))


def _spatial_gate(net: nn.Module, x: Tensor) -> Tensor:
    return net.out(x * torch.sigmoid(net.map(x)))


def _split_halves(net: nn.Module, x: Tensor) -> Tensor:
    first, second = torch.split(x, x.shape[1] // 2, dim=1)
    return net.out(first * second.sigmoid())


def _hard_split(net: nn.Module, x: Tensor) -> Tensor:
    first, second = torch.split(net.mid(x), [4, 4], dim=1)
    return net.out(first + second)


def _dense(net: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(net.first(x))
    z = F.relu(net.second(torch.cat([x, y], 1)))
    return torch.cat([y, z, x], 1)


def _reused(net: nn.Module, x: Tensor) -> Tensor:
    return net.twice(F.relu(net.twice(x)))


def _scaled(net: nn.Module, x: Tensor) -> Tensor:
    return net.out(x * net.gamma.view(1, -1, 1, 1) + net.beta)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (
        lambda: Net(lambda n, x: x + n.b(F.relu(n.a(x))), 8, a=conv(8, 6), b=conv(6, 8)),
        (2, 3, 8, 8),
    ),
    "depthwise": (
        lambda: Net(
            lambda n, x: n.out(F.relu6(n.dw(x))), 6, dw=conv(8, 16, groups=8), out=conv(16, 6)
        ),
        (2, 3, 8, 8),
    ),
    "grouped": (
        lambda: Net(lambda n, x: n.out(n.mid(x)), 6, mid=conv(8, 12, groups=4), out=conv(12, 6)),
        (2, 3, 8, 8),
    ),
    "transposed": (
        lambda: Net(
            lambda n, x: n.out(n.up(x)),
            6,
            up=nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2),
            out=conv(12, 6),
        ),
        (2, 3, 8, 8),
    ),
    "depthwise transposed": (
        lambda: Net(
            lambda n, x: n.out(n.up(x)),
            6,
            up=nn.ConvTranspose2d(8, 16, 2, stride=2, groups=8),
            out=conv(16, 6),
        ),
        (2, 3, 8, 8),
    ),
    "squeeze and excite": (
        lambda: Net(
            _squeeze_excite,
            6,
            down=nn.Conv2d(8, 4, 1),
            up=nn.Conv2d(4, 8, 1),
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
    "spatial gate": (lambda: Net(_spatial_gate, 6, map=conv(8, 1), out=conv(8, 6)), (2, 3, 8, 8)),
    "split in halves": (lambda: Net(_split_halves, 6, out=conv(4, 6)), (2, 3, 8, 8)),
    "stored sizes": (StoredSizes, (2, 3, 8, 8)),
    "size in two roles": (SizeInTwoRoles, (2, 3, 8, 8)),
    "first run differs": (FirstRunDiffers, (2, 3, 8, 8)),
    "regions": (lambda: Net(_regions, 6, out=conv(8, 6)), (2, 3, 8, 8)),
    "rounds by values": (
        lambda: Net(_rounds_by_values, 6, map=conv(8, 1), out=conv(8, 6)),
        (2, 3, 8, 8),
    ),
    "hard-coded split": (lambda: Net(_hard_split, 6, mid=conv(8, 8), out=conv(4, 6)), (2, 3, 8, 8)),
    "gated linear unit": (
        lambda: Net(lambda n, x: n.out(F.glu(x, 1)), 6, out=conv(4, 6)),
        (2, 3, 8, 8),
    ),
    "dense": (lambda: Net(_dense, 18, first=conv(8, 6), second=conv(14, 4)), (2, 3, 8, 8)),
    "module used twice": (lambda: Net(_reused, 8, twice=conv(8, 8)), (2, 3, 8, 8)),
    "bare parameters": (
        lambda: Net(
            _scaled,
            6,
            gamma=nn.Parameter(torch.rand(8) + 0.5),
            beta=nn.Parameter(torch.rand(8, 1, 1)),
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
    "instance norm and prelu": (
        lambda: Net(
            lambda n, x: n.out(n.act(n.inorm(x))),
            6,
            inorm=nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            act=nn.PReLU(8),
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
    "norms without parameters": (
        lambda: Net(
            lambda n, x: n.out(n.plain(n.inorm(x))),
            6,
            inorm=nn.InstanceNorm2d(8),
            plain=nn.BatchNorm2d(8, affine=False),
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
    "pixel shuffle": (
        lambda: Net(lambda n, x: n.out(F.pixel_shuffle(x, 2)), 6, out=conv(2, 6)),
        (2, 3, 8, 8),
    ),
    "interpolation and padding": (
        lambda: Net(
            lambda n, x: n.out(F.pad(F.interpolate(x, scale_factor=2.0), (1, 1, 0, 2))),
            6,
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
    "channels last linear": (
        lambda: Net(
            lambda n, x: n.down(F.gelu(n.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2) + x,
            8,
            up=nn.Linear(8, 12),
            down=nn.Linear(12, 8),
        ),
        (2, 3, 8, 8),
    ),
    "reflecting convolution": (
        lambda: Net(
            lambda n, x: n.out(x),
            6,
            out=nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect", stride=2),
        ),
        (2, 3, 8, 8),
    ),
    "selective kernel": (
        lambda: Net(lambda n, x: n.out(n.choose(x)), 7, choose=SelectiveKernel(), out=conv(6, 7)),
        (2, 3, 8, 8),
    ),
    "best branch": (
        lambda: Net(_best_branch, 6, a=conv(8, 8), b=conv(8, 8), out=conv(8, 6)),
        (2, 3, 8, 8),
    ),
    "pyramid": (
        lambda: Net(
            _pyramid,
            5,
            deep=conv(8, 9),
            lateral=nn.Conv2d(8, 6, 1),
            lateral2=nn.Conv2d(9, 6, 1),
            out=conv(6, 5),
        ),
        (2, 3, 8, 8),
    ),
    "maxout": (lambda: Net(_maxout, 6, wide=conv(8, 12), out=conv(4, 6)), (2, 3, 8, 8)),
    "mean over channels": (
        lambda: Net(_mean_over_channels, 6, mid=conv(8, 7), out=conv(8, 6)),
        (2, 3, 8, 8),
    ),
    "einsum": (
        lambda: Net(
            _einsum,
            7,
            first=nn.Parameter(torch.randn(6, 8) / 3),
            second=nn.Parameter(torch.randn(6, 7) / 3),
        ),
        (2, 3, 8, 8),
    ),
    "matrix on the left": (
        lambda: Net(
            _matrix_on_the_left, 6, matrix=nn.Parameter(torch.randn(7, 8) / 3), out=conv(7, 6)
        ),
        (2, 3, 8, 8),
    ),
    "bare weights": (BareWeights, (2, 1, 8, 8)),
    "one dimension": (Conv1dNet, (2, 4, 32)),
    "flatten": (FlattenNet, (2, 3, 8, 8)),
}

NORMS_OVER_CHANNELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "group norm": (
        lambda: Net(lambda n, x: n.out(n.gn(x)), 6, gn=nn.GroupNorm(4, 8), out=conv(8, 6)),
        (2, 3, 8, 8),
    ),
    "layer norm": (
        lambda: Net(
            lambda n, x: n.out(n.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
            6,
            ln=nn.LayerNorm(8),
            out=conv(8, 6),
        ),
        (2, 3, 8, 8),
    ),
}


def build(
    table: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]], name: str
) -> tuple[nn.Module, Tensor]:
    """One network of a table, in evaluation mode with uneven norms, and an input for it."""
    make, shape = table[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
        return model, torch.randn(shape)
