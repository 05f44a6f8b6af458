import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import counted_flops, hooked_flops, masked
from structure.networks import NETWORKS, NORMS_OVER_CHANNELS, Net, build, conv
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.structure import probing

ALL = {**NETWORKS, **NORMS_OVER_CHANNELS}
# Layers that are functions of a parameter, which no hook on a module sees.
WITHOUT_MODULES = {"einsum", "matrix on the left", "bare weights"}
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def random_kept(graph: ChannelGraph, seed: int) -> dict[str, Tensor]:
    """A random number of random channels in every group, from one channel to all."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in graph.groups:
        count = int(torch.randint(1, group.channels + 1, (), generator=generator))
        kept[group.name] = torch.randperm(group.channels, generator=generator)[:count]
    return kept


@pytest.mark.parametrize("name", NETWORKS)
@FEW
@given(seed=SEEDS)
def test_a_compact_network_equals_the_masked_one(name: str, seed: int) -> None:
    model, x = build(NETWORKS, name)
    graph = ChannelGraph(model, x)
    kept = random_kept(graph, seed)
    with torch.no_grad():
        expected, got = masked(graph, kept)(x), graph.compact(kept)(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ALL)
@FEW
@given(seed=SEEDS)
def test_the_analytic_cost_is_the_counted_cost(name: str, seed: int) -> None:
    model, x = build(ALL, name)
    graph = ChannelGraph(model, x)
    kept = random_kept(graph, seed)
    compact = graph.compact(kept)
    cost = graph.cost({group: len(indices) for group, indices in kept.items()})
    assert cost.flops == counted_flops(compact, (x,))
    if name not in WITHOUT_MODULES:
        assert cost.flops == hooked_flops(compact, (x,))
    assert cost.params == sum(p.numel() for p in compact.parameters())
    assert sum(layer.flops for layer in cost.layers) == cost.flops


@pytest.mark.parametrize("name", ALL)
def test_keeping_all_channels_changes_nothing(name: str) -> None:
    model, x = build(ALL, name)
    graph = ChannelGraph(model, x)
    compact = graph.compact({g.name: range(g.channels) for g in graph.groups})
    with torch.no_grad():
        assert torch.equal(compact(x), model(x))


@pytest.mark.parametrize("name", ALL)
def test_a_network_cut_to_one_channel_a_group_still_runs_and_trains(name: str) -> None:
    model, x = build(ALL, name)
    graph = ChannelGraph(model, x)
    compact = graph.compact({g.name: [g.channels - 1] for g in graph.groups}).train()
    compact(x).square().sum().backward()
    for parameter in compact.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


EXPECTED_GROUPS = {
    "residual": {"stem": 8, "a": 6},
    "depthwise": {"stem": 8, "out": 6},
    "grouped": {"stem": 2, "mid": 3, "out": 6},
    "transposed": {"stem": 4, "up": 6, "out": 6},
    "squeeze and excite": {"stem": 8, "down": 4, "out": 6},
    "spatial gate": {"stem": 8, "out": 6},
    "split in halves": {"stem": 4, "out": 6},
    "hard-coded split": {"stem": 8, "out": 6},
    "stored sizes": {"stem": 4, "branch": 4, "wide": 3, "wide@2": 5, "small": 6, "large": 4},
    "size in two roles": {"out": 6},
    "regions": {"stem": 8, "out": 6},
    "rounds by values": {"stem": 8, "out": 6},
    "first run differs": {"stem": 8, "out": 6},
    "gated linear unit": {"stem": 4, "out": 6},
    "dense": {"stem": 8, "first": 6, "second": 4},
    "module used twice": {"stem": 8},
    "pixel shuffle": {"stem": 2, "out": 6},
    "channels last linear": {"stem": 8, "up": 12},
    "flatten": {"body.0": 6, "hidden": 10},
    "selective kernel": {"stem": 8, "choose.small": 6, "choose.squeeze": 4, "out": 7},
    "best branch": {"stem": 8, "out": 6},
    "pyramid": {"stem": 8, "deep": 9, "lateral": 6, "out": 5},
    "maxout": {"stem": 8, "wide": 4, "out": 6},
    "mean over channels": {"stem": 8, "out": 6},
    "einsum": {"stem": 8, "first": 6, "second": 7},
    "matrix on the left": {"stem": 8, "matrix": 7, "out": 6},
    "bare weights": {
        "first": 4,
        "others.0": 6,
        "others.1": 10,
        "mid": 9,
        "inner": 6,
        "weight": 7,
        "outer": 5,
    },
}


@pytest.mark.parametrize("name", EXPECTED_GROUPS)
def test_groups_are_named_by_their_first_producer_in_execution_order(name: str) -> None:
    graph = ChannelGraph(*build(NETWORKS, name))
    assert {g.name: g.channels for g in graph.groups} == EXPECTED_GROUPS[name]
    assert [g.name for g in graph.groups] == list(EXPECTED_GROUPS[name])


def test_positions_follow_concatenation_and_flatten() -> None:
    dense = ChannelGraph(*build(NETWORKS, "dense"))
    consumers = {c.module: c.positions.tolist() for c in dense.group("stem").consumers}
    assert consumers["second"] == [[i] for i in range(8)]
    assert consumers["head"] == [[10 + i] for i in range(8)]
    flat = ChannelGraph(*build(NETWORKS, "flatten"))
    (hidden,) = flat.group("body.0").consumers
    assert hidden.positions.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(6)]


def test_members_have_their_roles() -> None:
    group = ChannelGraph(*build(NETWORKS, "depthwise")).group("stem")
    assert [(m.module, m.kind) for m in group.producers] == [("stem", "conv")]
    assert [(m.module, m.kind) for m in group.followers] == [
        ("dw", "depthwise"),
        ("norm", "batch_norm"),
    ]
    assert group.followers[0].positions.tolist() == [[2 * c, 2 * c + 1] for c in range(8)]
    assert [(m.module, m.kind) for m in group.consumers] == [("out", "conv")]


def test_what_cannot_be_cut_is_frozen_with_the_reason() -> None:
    graph = ChannelGraph(*build(NETWORKS, "hard-coded split"))
    frozen = {f.name: f for f in graph.frozen}
    assert frozen["mid"].channels == 8
    assert "a cut network fails" in frozen["mid"].reason
    assert frozen["head"].reason == "they are the network's output"


def test_numbers_that_a_module_splits_by_are_cut_with_the_channels_they_count() -> None:
    model, x = build(NETWORKS, "stored sizes")
    graph = ChannelGraph(model, x)
    compact = graph.compact({"stem": [0, 3], "wide": [1], "wide@2": range(4), "small": [0, 2]})
    assert (compact.width, compact.sizes, compact.narrow, compact.heads) == (2, [1, 4], 2, 4)
    assert compact.shape == (6, 1, 1)
    assert (model.width, model.sizes, model.narrow) == (4, [3, 5], 6)
    again = ChannelGraph(compact, x)
    assert [g.channels for g in again.groups] == [2, 4, 4, 2, 4]


def test_a_reduction_over_the_channels_of_one_layer_needs_them_all() -> None:
    graph = ChannelGraph(*build(NETWORKS, "mean over channels"))
    reasons = {f.name: f.reason for f in graph.frozen}
    assert reasons["mid"] == "mean in the model (Net) works over these channels"


@pytest.mark.parametrize("name", NORMS_OVER_CHANNELS)
def test_norms_over_channels_are_marked(name: str) -> None:
    graph = ChannelGraph(*build(NORMS_OVER_CHANNELS, name))
    assert {g.name: g.has_channel_norm for g in graph.groups} == {"stem": True, "out": False}


def test_a_wrong_slice_is_found_although_every_shape_fits() -> None:
    # Slices at half the width run after any even cut, but pick other channels.
    def middle(net: nn.Module, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return net.out(x[:, :half] + 0 * x[:, :half].relu()) + net.out2(x[:, half : 2 * half])

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(3, 8), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            half = x.shape[1] // 2
            y = self.a(x[:, :half]) + self.b(x[:, half : 2 * half])
            return self.head(y.mean((2, 3)))

    graph = ChannelGraph(Halves(), torch.randn(1, 3, 8, 8))
    for group in graph.groups:
        generator = torch.Generator().manual_seed(0)
        for count in range(1, group.channels + 1):
            kept = {group.name: torch.randperm(group.channels, generator=generator)[:count]}
            x = torch.randn(1, 3, 8, 8, generator=generator)
            with torch.no_grad():
                assert torch.allclose(graph.compact(kept)(x), masked(graph, kept)(x), atol=1e-5)


def test_layers_that_only_training_runs_are_cut_too() -> None:
    class WithAuxiliaryHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux = conv(3, 8), nn.Linear(8, 2)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
            x = F.relu(self.stem(x)).mean((2, 3))
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    model, x = WithAuxiliaryHead().eval(), torch.randn(2, 3, 8, 8)
    graph = ChannelGraph(model, x)
    assert graph.cost().flops == counted_flops(model, (x,))
    compact = graph.compact({"stem": [1, 5]}).train()
    main, auxiliary = compact(x)
    (main.sum() + auxiliary.sum()).backward()
    assert compact.aux.weight.shape == (2, 2)


def test_a_training_head_that_the_example_is_too_small_for_leaves_the_rest_alone() -> None:
    class WithDemandingHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6 * 16, 2)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
            x = F.relu(self.stem(x))
            main = self.head(x.mean((2, 3)))
            return (main, self.fc(self.aux(x).flatten(1))) if self.training else main

    small, large = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 4, 4)
    graph = ChannelGraph(WithDemandingHead(), small)
    assert [group.name for group in graph.groups] == ["stem"]
    with_head = ChannelGraph(WithDemandingHead(), large)
    assert [group.name for group in with_head.groups] == ["stem", "aux"]


class Spy:
    """What must not change about a model while it is analysed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights = copy.deepcopy(model.state_dict())
        self.training = [m.training for m in model.modules()]

    def check(self) -> None:
        assert self.training == [m.training for m in self.model.modules()]
        for name, value in self.model.state_dict().items():
            assert torch.equal(value, self.weights[name]), name
        for module in self.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        assert not nn.modules.module._global_forward_hooks
        assert not nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize("fails", [False, True])
def test_the_users_model_is_left_as_it_was(fails: bool) -> None:
    model, x = build(NETWORKS, "residual")
    model.train()
    model.b.eval()
    spy = Spy(model)
    if fails:
        with pytest.raises(ValueError, match="does not run on an example_input"):
            ChannelGraph(model, torch.randn(2, 4, 8, 8))
    else:
        ChannelGraph(model, x).compact({"stem": [0]})
    spy.check()


def test_a_compact_model_is_an_ordinary_module() -> None:
    model, x = build(NETWORKS, "flatten")
    model = model.double().to(memory_format=torch.channels_last)
    model.head.weight.requires_grad_(False)
    x = x.double()
    graph = ChannelGraph(model, x)
    compact = graph.compact({"body.0": [0, 3, 5], "hidden": [1, 2]})
    assert type(compact) is type(model)
    assert compact.body[0].weight.dtype == torch.float64
    assert compact.body[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not compact.head.weight.requires_grad
    assert compact.hidden.in_features == 48
    with torch.no_grad():
        expected = compact(x)
        for twin in (pickle.loads(pickle.dumps(compact)), copy.deepcopy(compact)):
            assert torch.equal(twin(x), expected)
        other = graph.compact({"body.0": [1, 2, 4], "hidden": [0, 3]})
        other.load_state_dict(compact.state_dict())
        assert torch.equal(other(x), expected)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(3, 6), conv(6, 6), conv(6, 6)
            self.b.weight = self.a.weight
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(F.relu(self.a(self.stem(x)))).mean((2, 3)))

    graph = ChannelGraph(Tied(), torch.randn(1, 3, 8, 8))
    compact = graph.compact({g.name: [0, 2] for g in graph.groups})
    assert compact.a.weight is compact.b.weight
    compact(torch.randn(1, 3, 8, 8))


def test_ignored_modules_keep_their_outputs() -> None:
    model, x = build(NETWORKS, "residual")
    graph = ChannelGraph(model, x, ignore=["a"])
    assert [g.name for g in graph.groups] == ["stem"]
    assert {f.name: f.reason for f in graph.frozen}["a"] == "a is in ignore"


def test_counts_are_rounded_as_asked() -> None:
    graph = ChannelGraph(*build(NETWORKS, "residual"), round_to=3, min_channels=2)
    assert graph.group("stem").counts == (3, 6, 8)
    assert graph.group("stem").round_count(4.6) == 6
    assert graph.group("stem").round_count(4.5) == 6
    with pytest.raises(ValueError, match=r"cannot keep 4 channels.*3, 6, 8"):
        graph.compact({"stem": [0, 1, 2, 3]})


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"stem": []}, r"'stem' cannot keep 0 channels"),
        ({"stem": [0, 0]}, r"'stem' was given channel 0 more than once"),
        ({"stem": [8]}, r"'stem' has no channel 8; give indices from 0 to 7"),
        ({"stem": [-1]}, r"'stem' has no channel -1"),
        ({"stem": [0.5]}, r"flat sequence of whole numbers"),
        ({"stem": [[0], [1]]}, r"flat sequence of whole numbers"),
        ({"stem": "all"}, r"give the indices of the channels to keep"),
        ({"stam": [0]}, r"no group 'stam'; the nearest group is 'stem'"),
        ({"head": [0]}, r"cannot be cut because they are the network's output"),
    ],
)
def test_wrong_selections_are_refused(kept: dict[str, object], message: str) -> None:
    graph = ChannelGraph(*build(NETWORKS, "residual"))
    with pytest.raises(ValueError, match=message):
        graph.compact(kept)


@pytest.mark.parametrize("count", [0, 9, 1.5, True])
def test_wrong_counts_are_refused(count: object) -> None:
    graph = ChannelGraph(*build(NETWORKS, "residual"))
    with pytest.raises(ValueError, match="give a whole number from 1 to 8"):
        graph.cost({"stem": count})


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "example_input is a NoneType; give a tensor"),
        ((), "example_input is a tuple"),
        (torch.tensor(1.0), "example_input is empty"),
        (torch.zeros(0, 3, 8, 8), "example_input is empty"),
        (torch.zeros(1, 4, 8, 8), r"does not run on an example_input of shape \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.long), "does not run on an example_input"),
    ],
)
def test_wrong_example_inputs_are_refused(example: object, message: str) -> None:
    model, _ = build(NETWORKS, "residual")
    with pytest.raises(ValueError, match=message):
        ChannelGraph(model, example)


def _nothing_prunable() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "model is a str; give a torch.nn.Module"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), "has no shape yet; run the model once first"),
        (_nothing_prunable(), "no channel of the model .* can be cut .*network's output"),
    ],
)
def test_models_that_cannot_be_taken_apart_are_refused(model: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChannelGraph(model, torch.randn(1, 3, 2, 2))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_what_is_wrapped_around_a_network_is_taken_off_with_a_word(
    wrap: Callable[[nn.Module], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model, x = build(NETWORKS, "residual")
    graph = ChannelGraph(wrap(model), x)
    assert graph.model is model
    assert "the network inside" in caplog.text
    assert [g.name for g in graph.groups] == [g.name for g in ChannelGraph(model, x).groups]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore": ["stm"]}, "ignore names no module 'stm'; the nearest is 'stem'"),
        ({"ignore": "stem"}, "give a list of module names"),
        ({"round_to": 0}, "round_to is 0; give a whole number of at least 1"),
        ({"min_channels": 1.5}, "min_channels is 1.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChannelGraph(*build(NETWORKS, "residual"), **arguments)


def test_unknown_operations_freeze_what_they_touch() -> None:
    model = Net(
        lambda n, x: n.out(torch.sort(n.mid(x), 1).values), 6, mid=conv(8, 8), out=conv(8, 6)
    )
    graph = ChannelGraph(model, torch.randn(1, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["stem", "out"]
    assert "sort in the model (Net)" in {f.name: f.reason for f in graph.frozen}["mid"]


def test_computed_weights_freeze_what_they_touch() -> None:
    model = Net(
        lambda n, x: n.out(n.mid(x)), 6, mid=Standardised(8, 8, 3, padding=1), out=conv(8, 6)
    )
    graph = ChannelGraph(model, torch.randn(1, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["out"]
    assert "remove the parametrization" in {f.name: f.reason for f in graph.frozen}["stem"]


class Rolled(nn.Module):
    """A roll over channels, which shows only when the channels at an end are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.roll(self.first(x), 1, dims=1))
        return out


def test_a_roll_over_channels_freezes_its_group() -> None:
    with pytest.raises(ValueError, match="first: a cut network fails"):
        ChannelGraph(Rolled().eval(), torch.randn(2, 3, 9, 9))


class TiedLinear(nn.Module):
    """The decoder of an autoencoder reads the transposed weight of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.enc, self.out = nn.Linear(12, 10), nn.Linear(10, 6), nn.Linear(10, 12)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.enc(F.relu(self.inner(x))))
        return self.out(F.linear(code, self.enc.weight.t()))


class TiedConvolution(nn.Module):
    """The same with a transposed convolution, and a bottleneck that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mid, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        code = self.back(F.relu(self.mid(F.relu(self.enc(x)))))
        return F.conv_transpose2d(code, self.enc.weight)


def test_a_weight_tied_to_its_transpose_freezes_both_sides() -> None:
    graph = ChannelGraph(TiedConvolution(), torch.randn(2, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["mid"]
    reason = "enc.weight is used once as it is and once transposed"
    assert {f.name: f.reason for f in graph.frozen} == {"enc": reason, "back": reason}
    with pytest.raises(ValueError, match=r"inner: enc.weight is used once as it is and once trans"):
        ChannelGraph(TiedLinear(), torch.randn(2, 12))


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-5), self.bias)


def _classifier(make: type[nn.Conv2d]) -> nn.Sequential:
    layers = [make(3, 8, 3), nn.ReLU(), make(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 4))


def _quantisation_aware() -> nn.Module:
    model = _classifier(nn.Conv2d).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    return torch.ao.quantization.prepare_qat(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [lambda: _classifier(Standardised), _quantisation_aware])
def test_layers_that_compute_their_weight_are_named(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    with pytest.raises(ValueError, match="computes its weight on the way") as caught:
        ChannelGraph(model, torch.randn(2, 3, 8, 8))
    assert "0: conv2d in 0" in str(caught.value)
    assert "2: conv2d in 2" in str(caught.value)


def test_an_input_of_another_precision_is_refused_where_it_does_not_run() -> None:
    class Converts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _classifier(nn.Conv2d)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float())

    x = torch.randn(2, 3, 8, 8).half()
    with pytest.raises(ValueError, match=r"float32 and does not run on .*float16; give example"):
        ChannelGraph(_classifier(nn.Conv2d).eval(), x)
    assert ChannelGraph(Converts().eval(), x).groups


def test_an_error_in_our_own_analysis_is_not_blamed_on_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(*_: object) -> None:
        raise RuntimeError("an index is out of range")

    monkeypatch.setitem(probing.HANDLERS, "relu", stumble)
    graph = ChannelGraph(_classifier(nn.Conv2d).eval(), torch.randn(2, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["2"]
    reason = {f.name: f.reason for f in graph.frozen}["0"]
    assert "cannot be followed (an index is out of range)" in reason


def test_a_generator_of_names_to_ignore_is_recorded() -> None:
    model, x = build(NETWORKS, "residual")
    graph = ChannelGraph(model, x, ignore=(name for name in ["a"]))
    assert graph.ignore == ("a",)
    assert [g.name for g in graph.groups] == ["stem"]
