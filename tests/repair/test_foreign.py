"""The repair of networks that other tools have cut."""

import copy
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch_pruning
from pruning import Tiny, samples, tiny
from structure.networks import NETWORKS, build
from torch import Tensor, nn
from typing_extensions import override
from zoo.architectures import ARCHITECTURES
from zoo.architectures import build as build_architecture

import amc_env
import amc_env.repair.sequential
from amc_env import ChannelGraph, RepairSettings, repair
from amc_env.calibration import Calibration
from amc_env.criteria import Criterion
from amc_env.data import Split
from amc_env.repair import foreign
from amc_env.repair.plan import Reconstruction
from amc_env.repair.pruner import Pruner
from amc_env.repair.sequential import repair_sequentially_
from amc_env.structure import ChannelGroup

INPUTS = samples(40).inputs
KEPT = {"stem": [0, 2, 3, 6], "wide": [1, 2, 3, 5, 8, 9, 11], "last": [0, 1, 2, 4, 7, 8]}


def cut(model: nn.Module | None = None) -> nn.Module:
    """A network that was cut and not repaired."""
    return ChannelGraph(model or tiny(), INPUTS[:2]).compact(KEPT)


@torch.no_grad()
def distance(model: nn.Module, original: nn.Module, x: Tensor) -> float:
    return float((model(x) - original(x)).norm() / original(x).norm())


def test_outputs_come_nearer_to_the_originals_on_new_samples() -> None:
    fresh = samples(100, seed=5).inputs
    small = cut()
    repaired = repair(small, tiny(), INPUTS)
    assert distance(repaired, tiny(), fresh) < 0.7 * distance(small, tiny(), fresh)
    assert {n: p.shape for n, p in repaired.named_parameters()} == {
        n: p.shape for n, p in small.named_parameters()
    }


@dataclass(frozen=True)
class KeptFirst(Criterion):
    """Ranks the channels that stay before the others, both in ascending order."""

    name: ClassVar[str] = "kept first"

    @override
    def scores(self, group: ChannelGroup, calibration: Calibration) -> Tensor:
        scores = -torch.arange(group.channels, dtype=torch.float64)
        scores[KEPT[group.name]] += group.channels
        return scores


def test_it_is_the_repair_of_a_kept_network_on_four_samples_of_five() -> None:
    settings = RepairSettings(calibration_batch=10, ridge=1e-3, seed=3)
    repaired = repair(cut(), tiny(), INPUTS, settings=settings)
    solved = Split(inputs=INPUTS[torch.arange(len(INPUTS)) % 5 != 4])
    pruner = Pruner(ChannelGraph(tiny(), INPUTS[:2]), solved, KeptFirst(), repair=settings)
    counts = {name: len(kept) for name, kept in KEPT.items()}
    for name, value in pruner.prune_sequentially(counts).state_dict().items():
        assert torch.equal(repaired.state_dict()[name], value), name


def test_neither_network_is_changed() -> None:
    small, original = cut(), tiny().train()
    before = copy.deepcopy((small.state_dict(), original.state_dict()))
    repaired = repair(small, original, INPUTS)
    for then, now in zip(before, (small.state_dict(), original.state_dict()), strict=True):
        assert all(torch.equal(now[name], value) for name, value in then.items())
    assert original.training
    assert not {p.data_ptr() for p in repaired.parameters()} & {
        p.data_ptr() for p in (*small.parameters(), *original.parameters())
    }


def test_the_same_samples_give_the_same_weights() -> None:
    first, second = (repair(cut(), tiny(), INPUTS).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_a_copy_of_the_cut_network_keeps_its_class_mode_and_frozen_parameters() -> None:
    small = cut().train()
    small.get_parameter("wide.bias").requires_grad_(False)
    repaired = repair(small, tiny(), INPUTS)
    assert isinstance(repaired, Tiny)
    assert repaired.training
    assert not repaired.get_parameter("wide.bias").requires_grad


@torch.no_grad()
def test_a_network_that_cannot_be_brought_nearer_is_returned_as_it_is() -> None:
    original = tiny()
    for layer, axis in ((original.depthwise, 0), (original.wide, 1)):
        layer.weight.movedim(axis, 0)[[1, 4, 5, 7]] = 0
    original.depthwise.bias[[1, 4, 5, 7]] = 0
    # Only channels that nobody reads are gone, so that no weights could be better.
    small = ChannelGraph(original, INPUTS[:2]).compact({"stem": [0, 2, 3, 6]})
    repaired = repair(small, original, INPUTS, settings=RepairSettings(ridge=1e3))
    for name, value in small.state_dict().items():
        assert torch.allclose(repaired.state_dict()[name], value, atol=1e-5), name


def scores(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(2, len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


@pytest.mark.parametrize(
    ("solved", "is_taken"),
    [
        # Nearer and for the same classes; nearer and for other classes; farther.
        ([[1.0, 0.1], [0.0, 1.0]], True),
        ([[0.5, 0.0], [0.8, 1.0]], False),
        ([[9.0, 0.0], [0.0, 9.0]], False),
    ],
)
def test_a_repair_is_taken_if_it_is_nearer_and_changes_no_more_decisions(
    solved: list[list[float]], is_taken: bool
) -> None:
    original, given = scores([1.0, 0.0], [0.0, 1.0]), scores([3.0, 0.0], [0.0, 3.0])
    x = torch.tensor([[1.0, 0.2], [0.1, 1.0]])
    better = foreign._better(given, scores(*solved), original, [x])
    assert better is not given
    assert torch.equal(better.weight, torch.tensor(solved) if is_taken else given.weight)


@pytest.mark.parametrize("name", ["residual", "grouped", "dense", "flatten", "depthwise"])
def test_it_repairs_whatever_lies_between_layers(name: str) -> None:
    model, x = build(NETWORKS, name)
    graph = ChannelGraph(model, x)
    inputs = torch.randn(50, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    small = graph.compact({g.name: range(g.counts[len(g.counts) // 2]) for g in graph.groups})
    settings = RepairSettings(match_residual_sums=True, calibration_batch=20)
    repaired = repair(small, model, inputs, settings=settings)
    assert distance(repaired, model, inputs) < distance(small, model, inputs)


def pruned_by_torch_pruning(model: nn.Module, x: Tensor, *, ratio: float) -> nn.Module:
    small = copy.deepcopy(model)
    layers = [m for m in small.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    torch_pruning.pruner.MagnitudePruner(
        small,
        x[:1],
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=layers[-1:],
    ).step()
    return small


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("digits_cnn", 30),
        ("unet", 30),
        # Among a thousand classes of a network with random weights, the decisions on the six held
        # out of 30 images are chance.
        pytest.param("resnet18", 100, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_torch_pruning_has_cut_is_repaired(name: str, images: int) -> None:
    model, x = build_architecture(ARCHITECTURES[name])
    small = pruned_by_torch_pruning(model, x, ratio=0.3)
    inputs = torch.randn(images, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    repaired = repair(small, model, inputs)
    fresh = torch.randn(20, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    assert distance(repaired, model, fresh) < 0.8 * distance(small, model, fresh)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_sums_whose_terms_torch_pruning_cut_differently_are_refused() -> None:
    # It takes the zeros that option A pads with for channels in their places.
    model, x = build_architecture(ARCHITECTURES["cifar_resnet20"])
    small = pruned_by_torch_pruning(model, x, ratio=0.3)
    with pytest.raises(ValueError, match=r"'layer2\.\S+' of the cut network, .* lost different"):
        repair(small, model, x)


def test_a_network_that_is_not_smaller_is_refused() -> None:
    with pytest.raises(ValueError, match="has all channels of the original"):
        repair(tiny(), tiny(), INPUTS)


def test_a_network_that_computes_something_else_is_refused() -> None:
    class Shifted(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    small = cut()
    small.__class__ = Shifted
    with pytest.raises(ValueError, match="does not compute what the original without"):
        repair(small, tiny(), INPUTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"small": "net.pt"}, "the cut network is a str; give a torch.nn.Module"),
        ({"original": None}, "model is a NoneType"),
        ({"samples": INPUTS[:1]}, "one sample; give at least two"),
        ({"samples": samples(4)}, "without their labels"),
        ({"settings": RepairSettings(repair="none")}, "repair is 'none', which asks for no"),
        ({"settings": RepairSettings(norm_samples=5, repair="plain")}, "norm_samples is 5"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(given: dict[str, object], message: str) -> None:
    arguments = {"small": cut(), "original": tiny(), "samples": INPUTS, **given}
    with pytest.raises(ValueError, match=message):
        repair(**arguments)


@pytest.mark.parametrize(
    "script",
    [
        "from amc_env import repair; from amc_env.repair.plan import Keep",
        "import amc_env.repair.sequential; from amc_env import repair",
    ],
)
def test_the_package_is_a_function_whatever_is_imported_first(script: str) -> None:
    check = (
        "import amc_env\n"
        "assert callable(repair) and repair is amc_env.repair\n"
        "assert repair.plan.Keep and 'repair' in amc_env.__all__"
    )
    subprocess.run([sys.executable, "-c", f"{script}\n{check}"], check=True)


def test_modules_of_the_package_are_still_reached_by_it() -> None:
    assert amc_env.repair.sequential.repair_sequentially_ is repair_sequentially_
    assert amc_env.repair.Reconstruction is Reconstruction
